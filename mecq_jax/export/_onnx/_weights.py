"""Packed weights as ONNX nodes that any runtime unpacks.

They are a uint8 initializer, cast to int32 and gathered in a table of 256 rows that holds, for each byte, the weights
of its codes:

  per tensor, k = 2, 4, 16    the row holds 8, 4 or 2 levels
  per tensor, k = 3           the row holds 5 levels: a byte is a number of five digits in base 3 (1.6 bits a weight)
  all else                    the row holds codes; code + k g of a weight in group g is gathered in all groups' levels
  k = 5 to 8                  a code is the sum of two such planes, of its low two bits and its high one (3 bits)

What runtimes get wrong is left out: shifts of bits (OpenVINO), 2-bit tensors, DequantizeLinear before MatMul (ONNX
Runtime rounds the activations then).
"""

import math

import numpy as np

from mecq_jax.export._onnx._graph import Graph
from mecq_jax.granularity import PerTensor
from mecq_jax.storage import QuantizedTensor


def byte_table(base: int) -> np.ndarray:
    """The c digits in `base` of every byte, [256, c], the lowest first; c is the most that fit a byte."""
    count = int(math.log(256, base) + 1e-9)
    table: np.ndarray = np.arange(256)[:, None] // base ** np.arange(count) % base
    return table


def to_bytes(codes: np.ndarray, base: int) -> np.ndarray:
    """Codes below `base` as digits of bytes, uint8 [m], the last byte filled with 0."""
    count = byte_table(base).shape[1]
    digits = np.zeros(-(-codes.size // count) * count, np.int64)
    digits[: codes.size] = codes.reshape(-1)
    whole: np.ndarray = (digits.reshape(-1, count) * base ** np.arange(count)).sum(axis=1).astype(np.uint8)
    return whole


def _plane(graph: Graph, codes: np.ndarray, base: int, table: np.ndarray) -> str:
    """The name of table[bytes of codes], flat, one entry a code."""
    data = graph.node("Cast", graph.constant(to_bytes(codes, base)), to=int(graph.onnx.TensorProto.INT32))
    flat = graph.reshape(graph.node("Gather", graph.constant(table), data, axis=0), [-1])
    if codes.size % table.shape[1] == 0:
        return flat
    start, end = graph.constant([0], np.int64), graph.constant([codes.size], np.int64)
    return graph.node("Slice", flat, start, end, graph.constant([0], np.int64))


def weights(graph: Graph, tensor: QuantizedTensor) -> str:
    """The name of the dense tensor, float32 in its shape, unpacked in the graph."""
    if tensor.dtype != "float32":
        raise ValueError(f"a {tensor.dtype} tensor: ONNX files hold float32 weights; cast the model before hardening")
    groups, k = tensor.levels.shape
    codes = tensor.codes.reshape(-1)
    base = 2 if k < 3 else 3 if k == 3 else 4 if k == 4 else 16
    if groups == 1 and not 5 <= k <= 8:
        digits = byte_table(base)
        flat = _plane(graph, codes, base, tensor.levels[0][np.minimum(digits, k - 1)])
    else:
        planes = [(codes, base, 1)] if not 5 <= k <= 8 else [(codes & 3, 4, 1), (codes >> 2, 2, 4)]
        names = [_plane(graph, c, b, (unit * byte_table(b)).astype(np.int32)) for c, b, unit in planes]
        index = names[0] if len(names) == 1 else graph.node("Add", *names)
        offset = graph.constant(k * np.arange(groups, dtype=np.int32)[:, None])
        index = graph.node("Add", graph.reshape(index, tensor.codes.shape), offset)
        flat = graph.node("Gather", graph.constant(tensor.levels.reshape(-1)), index, axis=0)
    return _from_groups(graph, flat, tensor)


def _from_groups(graph: Graph, flat: str, tensor: QuantizedTensor) -> str:
    """Groups back to the tensor's shape, as `mecq_jax.granularity.from_groups` does it."""
    shape = tensor.shape
    if isinstance(tensor.granularity, PerTensor):
        return graph.reshape(flat, shape)
    axis = tensor.granularity.axis % len(shape)
    moved = graph.reshape(flat, [shape[axis], *shape[:axis], *shape[axis + 1 :]])
    order = list(range(1, len(shape)))
    order.insert(axis, 0)
    return graph.transpose(moved, order)


def onnx_packed_bytes(tensor: QuantizedTensor) -> int:
    """Count the bytes that a tensor's codes take in an ONNX file.

    They are 1, 2, 3 or 4 bits a weight as in a packed file, but 1.6 for three levels: five codes to a byte.

    Args:
      tensor: of n weights and k levels a group.

    Returns:
      Bytes of the codes; levels and tables are not counted.

    Example:
      >>> import numpy as np
      >>> from mecq_jax import PerTensor, export, storage
      >>> codes, levels = np.zeros((1, 10), np.uint8), np.array([[-1, 0, 1]], np.float32)
      >>> export.onnx_packed_bytes(storage.QuantizedTensor(codes, levels, (10,), PerTensor()))
      2
    """
    k, n = tensor.levels.shape[1], tensor.codes.size
    if 5 <= k <= 8:
        return -(-n // 4) + -(-n // 8)
    return -(-n // (8 if k < 3 else 5 if k == 3 else 4 if k == 4 else 2))
