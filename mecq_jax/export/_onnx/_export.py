"""From a packed network to files that other runtimes run: ONNX and StableHLO, each run and compared as it is written.

    tensors = artifact.load("model.safetensors")              # {path: HardTensor or array}
    export.onnx("model.onnx", forward, tensors, x)            # forward(arrays by path, x) -> array, pure JAX
    export.stablehlo("model.stablehlo", forward, tensors, x)

The weights stay packed in both: 1, 2, 3 or 4 bits each. Of ONNX, opset 13 and IR 8 are used, which runtimes have known
since 2021; `onnx_graph` says how weights are unpacked. The writer is our own and small: what there is to trace JAX with
asks for newer opsets, and for versions of other packages that ours cannot be installed with.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from mecq_jax import inference
from mecq_jax.export._compare import compare
from mecq_jax.export._onnx import _operators as _operators  # registers the rules of primitives
from mecq_jax.export._onnx._graph import SYMBOL, Graph
from mecq_jax.export._onnx._trace import Trace, Value
from mecq_jax.export._onnx._weights import weights
from mecq_jax.inference import Forward
from mecq_jax.storage import PRODUCER, QuantizedTensor, write_atomically

TOLERANCE = 1e-5


def onnx_model(forward: Forward, tensors: Mapping[str, Any], x: Any, *, dynamic_batch: bool = True) -> Any:
    """The ModelProto of `forward`; arguments as for `onnx`."""
    x = np.asarray(jnp.asarray(x))  # of the type that JAX computes with
    hard = {name: t for name, t in tensors.items() if isinstance(t, QuantizedTensor)}
    plain = {name: jnp.asarray(t) for name, t in tensors.items() if name not in hard}
    shape, batch = x.shape, None
    if dynamic_batch:
        (batch,) = jax_export.symbolic_shape(SYMBOL)
        shape = (batch, *x.shape[1:])
    shapes = {name: jax.ShapeDtypeStruct(t.shape, t.dtype) for name, t in hard.items()}
    traced = jax.make_jaxpr(lambda hard, x: forward({**plain, **hard}, x))(shapes, jax.ShapeDtypeStruct(shape, x.dtype))
    graph = Graph()
    trace = Trace(graph, batch, "input")
    unpacked = [Value(t.shape, t.shape, np.dtype(t.dtype), name=weights(graph, t)) for _, t in sorted(hard.items())]
    given = Value(shape, shape, x.dtype, name="input")
    (out,) = trace.run(traced.jaxpr, traced.consts, [*unpacked, given])
    graph.nodes.append(graph.onnx.helper.make_node("Identity", [trace.full(out)], ["output"]))
    notes = {"producer": PRODUCER, "bits": str(sorted({t.bits for t in hard.values()}))}
    return graph.model([_declared("input", given, batch)], [_declared("output", out, batch)], notes)


def _declared(name: str, value: Any, batch: Any) -> tuple[str, list[int | str | None], np.dtype]:
    """(name, shape with the batch by its name and what depends on it otherwise as None, type)."""
    return name, [d if isinstance(d, int) else SYMBOL if d == batch else None for d in value.shape], value.dtype


def onnx(
    path: str | os.PathLike,
    forward: Forward,
    tensors: Mapping[str, Any],
    x: Any,
    *,
    dynamic_batch: bool = True,
    tolerance: float = TOLERANCE,
) -> int:
    """Write the network as an ONNX file, having run it in ONNX Runtime, and return the bytes on disk.

    Args:
      path: where to write; the file appears whole or not at all.
      forward: (arrays by path, x) -> one array, as JAX computes it in float32.
      tensors: `HardTensor`s, which stay packed, and arrays by path.
      x: real inputs, [b, ...], on which the file is compared with JAX.
      dynamic_batch: whether the file takes any number of inputs (True) or as many as `x` has.
      tolerance: largest |difference| allowed, relative to the largest |output|; 0 asks for equal numbers.

    Raises:
      UnsupportedError: where the model uses what ONNX files of this kind cannot say.
      MismatchError: if ONNX Runtime computes something else; nothing is written.
    """
    x = jnp.asarray(x)
    data = onnx_model(forward, tensors, x, dynamic_batch=dynamic_batch).SerializeToString()
    (found,) = onnx_session(data).run(None, {"input": np.asarray(x)})
    compare(found, forward(inference.dense(inference.to_device(tensors)), x), tolerance, "ONNX Runtime")
    write_atomically(Path(path), data)
    return len(data)


def onnx_session(data: bytes) -> Any:
    """ONNX Runtime's session of a serialized model, on the CPU."""
    import onnxruntime  # an extra

    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
