"""Networks as serialized StableHLO, which needs jax alone; the weights stay packed constants."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export

from mecq_jax import inference
from mecq_jax.export._compare import compare
from mecq_jax.export._onnx._graph import SYMBOL
from mecq_jax.inference import Forward
from mecq_jax.storage import write_atomically


def stablehlo(
    path: str | os.PathLike,
    forward: Forward,
    tensors: Mapping[str, Any],
    x: Any,
    *,
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
    tolerance: float = 0.0,
) -> int:
    """Write the network as serialized StableHLO, having run it, and return the bytes on disk.

    `jax.export.deserialize(bytearray(bytes)).call(x)` runs it where there is jax alone. The weights are packed uint8
    constants; the number of inputs is free.

    Args:
      path, forward, tensors, x, tolerance: as for `onnx`.
      platforms: those that the file is to run on.
    """
    device = inference.to_device(tensors)
    (batch,) = jax_export.symbolic_shape(SYMBOL)
    x = jnp.asarray(x)

    def run(x):
        return forward(inference.dense(device), x)

    inputs = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    exported = jax_export.export(jax.jit(run), platforms=platforms)(inputs)
    data = bytes(exported.serialize())
    compare(jax_export.deserialize(bytearray(data)).call(x), jax.jit(run)(x), tolerance, "StableHLO")
    write_atomically(Path(path), data)
    return len(data)
