"""From a packed network to an ONNX file, run in ONNX Runtime and compared before it is written.

Opset 13 and IR 8 are used; `_weights` says how weights are unpacked. This writer is small and part of the library
because other tracers of JAX ask for newer opsets, and for versions of packages that cannot be installed with ours.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mecq_jax import inference
from mecq_jax.export._batch import SYMBOL, shaped, symbolic_batch
from mecq_jax.export._compare import compare
from mecq_jax.export._onnx import _contractions, _elementwise, _shapes
from mecq_jax.export._onnx._graph import Graph
from mecq_jax.export._onnx._trace import Trace, Value
from mecq_jax.export._onnx._weights import weights
from mecq_jax.inference import Forward
from mecq_jax.storage import PRODUCER, QuantizedTensor, write_atomically

TOLERANCE = 1e-5  # relative to the largest output: above what sums of float32 in another order differ by
RULES = {**_elementwise.RULES, **_shapes.RULES, **_contractions.RULES}  # of all primitives that can be exported


def onnx_model(forward: Forward, tensors: Mapping[str, Any], x: Any, *, dynamic_batch: bool = True) -> Any:
    """Build the ONNX model of a network, without running or writing it.

    Args:
      forward: (arrays by path, x) -> one array, as JAX computes it in float32.
      tensors: `QuantizedTensor`s, which stay packed, and arrays by path.
      x: inputs, [b, ...], of which the shape and the type count.
      dynamic_batch: whether the model takes any number of inputs (True) or as many as `x` has.

    Returns:
      The checked `onnx.ModelProto`, of one input "input" and one output "output".

    Raises:
      UnsupportedError: where the network uses what ONNX files of this kind cannot say.
      ValueError: if a quantized tensor is not of float32.

    Example:
      >>> import numpy as np
      >>> from mecq_jax import export
      >>> model = export.onnx_model(lambda arrays, x: 2.0 * x, {}, np.ones((1, 3), np.float32))
      >>> [node.op_type for node in model.graph.node]
      ['Mul', 'Identity']
    """
    x = np.asarray(jnp.asarray(x))  # of the type that JAX computes with
    hard = {name: t for name, t in tensors.items() if isinstance(t, QuantizedTensor)}
    plain = {name: jnp.asarray(t) for name, t in tensors.items() if name not in hard}
    shape, batch = x.shape, None
    if dynamic_batch:
        batch = symbolic_batch()
        shape = (batch, *x.shape[1:])
    shapes = {name: shaped(t.shape, t.dtype) for name, t in hard.items()}
    traced = jax.make_jaxpr(lambda hard, x: forward({**plain, **hard}, x))(shapes, shaped(shape, x.dtype))
    graph = Graph()
    trace = Trace(graph, RULES, batch, "input")
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
    path: str | os.PathLike[str],
    forward: Forward,
    tensors: Mapping[str, Any],
    x: Any,
    *,
    dynamic_batch: bool = True,
    tolerance: float = TOLERANCE,
) -> int:
    """Write a network as an ONNX file with packed weights, once ONNX Runtime has run it and was compared with JAX.

    Args:
      path: where to write; the file appears whole or not at all.
      forward: (arrays by path, x) -> one array, as JAX computes it in float32.
      tensors: `QuantizedTensor`s, which stay packed, and arrays by path.
      x: real inputs, [b, ...], on which the file is compared with JAX.
      dynamic_batch: whether the file takes any number of inputs (True) or as many as `x` has.
      tolerance: largest |difference| allowed, relative to the largest |output|; 0 asks for equal numbers.

    Returns:
      The file's size in bytes.

    Raises:
      UnsupportedError: where the network uses what ONNX files of this kind cannot say.
      MismatchError: if ONNX Runtime computes something else; nothing is written.
      ValueError: if a quantized tensor is not of float32.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from mecq_jax import export
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     export.onnx(f"{folder}/m.onnx", lambda arrays, x: 2.0 * x, {}, np.ones((1, 3), np.float32)) > 0
      True
    """
    x = jnp.asarray(x)
    data = onnx_model(forward, tensors, x, dynamic_batch=dynamic_batch).SerializeToString()
    (found,) = onnx_session(data).run(None, {"input": np.asarray(x)})
    compare(found, forward(inference.dense(inference.to_device(tensors)), x), tolerance, "ONNX Runtime")
    write_atomically(Path(path), data)
    return len(data)


def onnx_session(data: bytes) -> Any:
    """Open a serialized model in ONNX Runtime, on the CPU.

    Args:
      data: a serialized `onnx.ModelProto`, as a file holds it.

    Returns:
      The `onnxruntime.InferenceSession`; `session.run(None, {"input": x})` gives a list of one output.

    Example:
      >>> import numpy as np
      >>> from mecq_jax import export
      >>> x = np.ones((1, 3), np.float32)
      >>> model = export.onnx_model(lambda arrays, x: 2.0 * x, {}, x)
      >>> export.onnx_session(model.SerializeToString()).run(None, {"input": x})
      [array([[2., 2., 2.]], dtype=float32)]
    """
    import onnxruntime  # an extra

    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
