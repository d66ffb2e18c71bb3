"""Networks as serialized StableHLO, which needs jax alone; the weights stay packed constants."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export

from mecq_jax import inference
from mecq_jax.export._batch import shaped, symbolic_batch
from mecq_jax.export._compare import compare
from mecq_jax.inference import Forward
from mecq_jax.storage import write_atomically


def stablehlo(
    path: str | os.PathLike[str],
    forward: Forward,
    tensors: Mapping[str, Any],
    x: Any,
    *,
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
    tolerance: float = 0.0,
) -> int:
    """Write a network as serialized StableHLO with packed weights, once it was run and compared with JAX.

    `jax.export.deserialize(bytearray(bytes)).call(x)` runs it where there is jax alone. The weights are packed uint8
    constants; the number of inputs is free.

    Args:
      path: where to write; the file appears whole or not at all.
      forward: (arrays by path, x) -> one array.
      tensors: `QuantizedTensor`s, which stay packed, and arrays by path.
      x: real inputs, [b, ...], on which the file is compared with JAX.
      platforms: those that the file is to run on.
      tolerance: largest |difference| allowed, relative to the largest |output|; 0 asks for equal numbers.

    Returns:
      The file's size in bytes.

    Raises:
      MismatchError: if the file computes something else; nothing is written.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from mecq_jax import export
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     export.stablehlo(f"{folder}/m", lambda arrays, x: 2.0 * x, {}, np.ones((1, 3), np.float32)) > 0
      True
    """
    device = inference.to_device(tensors)
    x = jnp.asarray(x)

    def run(x: jax.Array) -> Any:
        return forward(inference.dense(device), x)

    inputs = shaped((symbolic_batch(), *x.shape[1:]), x.dtype)
    exported = jax_export.export(jax.jit(run), platforms=platforms)(inputs)
    data = bytes(exported.serialize())
    found = jax_export.deserialize(bytearray(data)).call(x)
    compare(found, jax.jit(run)(x), tolerance, "StableHLO")
    write_atomically(Path(path), data)
    return len(data)
