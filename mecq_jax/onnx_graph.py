"""ONNX graphs in the making, with packed weights that any runtime unpacks: opset 13, IR 8, standard operators alone.

Packed weights are a uint8 initializer, cast to int32 and gathered in a table of 256 rows that holds, for each byte, the
weights of its codes:

  per tensor, k = 2, 4, 16    the row holds 8, 4 or 2 levels
  per tensor, k = 3           the row holds 5 levels: a byte is a number of five digits in base 3 (1.6 bits a weight)
  all else                    the row holds codes; code + k g of a weight in group g is gathered in all groups' levels
  k = 5 to 8                  a code is the sum of two such planes, of its low two bits and its high one (3 bits)

What runtimes get wrong is left out: shifts of bits (OpenVINO), 2-bit tensors, DequantizeLinear before MatMul (ONNX
Runtime rounds the activations then).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mecq_jax.grouping import PerTensor
from mecq_jax.packing import HardTensor

OPSET, IR_VERSION = 13, 8
SYMBOL = "batch"


class Graph:
    """Nodes and initializers; names are given as they come, equal initializers are one."""

    def __init__(self) -> None:
        import onnx  # an extra; only exporting needs it

        self.onnx = onnx
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._constants: dict[tuple, str] = {}
        self._known: dict[tuple, str] = {}

    def constant(self, value: Any, dtype: Any = None) -> str:
        """The name of an initializer of this value."""
        array = np.asarray(value, dtype, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = f"c{len(self._constants)}"
            self.initializers.append(self.onnx.numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The name of the output of a node; a node of the same inputs and attributes is made once."""
        key = (kind, inputs, repr(sorted(attributes.items())))
        if key not in self._known:
            name = self._known[key] = f"v{len(self._known)}"
            self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], **attributes))
        return self._known[key]

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        return self.node("Reshape", name, self.constant(shape, np.int64))

    def transpose(self, name: str, order: Sequence[int]) -> str:
        order = [int(i) for i in order]
        return name if order == sorted(order) else self.node("Transpose", name, perm=order)

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any], notes: dict[str, str]) -> Any:
        """The checked ModelProto of the nodes; inputs and outputs: (name, shape, dtype) with str or int dimensions."""
        helper = self.onnx.helper

        def info(name, shape, dtype):
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            return helper.make_tensor_value_info(name, kind, shape)

        graph = helper.make_graph(
            self.nodes, "mecq", [info(*x) for x in inputs], [info(*x) for x in outputs], self.initializers
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="mecq_jax")
        helper.set_model_props(model, notes)
        self.onnx.checker.check_model(model, full_check=True)
        return model


def byte_table(base: int) -> np.ndarray:
    """int32 [256, c]: the c digits in `base` of every byte, the lowest first; c is the most that fit a byte."""
    count = int(math.log(256, base) + 1e-9)
    return np.arange(256)[:, None] // base ** np.arange(count) % base


def to_bytes(codes: np.ndarray, base: int) -> np.ndarray:
    """uint8 [m]: codes below `base` as digits of bytes, the last one filled with 0."""
    count = byte_table(base).shape[1]
    digits = np.zeros(-(-codes.size // count) * count, np.int64)
    digits[: codes.size] = codes.reshape(-1)
    return (digits.reshape(-1, count) * base ** np.arange(count)).sum(axis=1).astype(np.uint8)


def _plane(graph: Graph, codes: np.ndarray, base: int, table: np.ndarray) -> str:
    """The name of table[bytes of codes], flat, one entry a code."""
    data = graph.node("Cast", graph.constant(to_bytes(codes, base)), to=int(graph.onnx.TensorProto.INT32))
    flat = graph.reshape(graph.node("Gather", graph.constant(table), data, axis=0), [-1])
    if codes.size % table.shape[1] == 0:
        return flat
    start, end = graph.constant([0], np.int64), graph.constant([codes.size], np.int64)
    return graph.node("Slice", flat, start, end, graph.constant([0], np.int64))


def weights(graph: Graph, tensor: HardTensor) -> str:
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


def _from_groups(graph: Graph, flat: str, tensor: HardTensor) -> str:
    """Groups back to the tensor's shape, as `grouping.from_groups` does it."""
    shape = tensor.shape
    if isinstance(tensor.granularity, PerTensor):
        return graph.reshape(flat, shape)
    axis = tensor.granularity.axis % len(shape)
    moved = graph.reshape(flat, [shape[axis], *shape[:axis], *shape[axis + 1 :]])
    order = list(range(1, len(shape)))
    order.insert(axis, 0)
    return graph.transpose(moved, order)


def packed_bytes(tensor: HardTensor) -> int:
    """Bytes of the tensor's codes in the file: 1, 2, 3 or 4 bits a weight, 1.6 for three levels."""
    k, n = tensor.levels.shape[1], tensor.codes.size
    if 5 <= k <= 8:
        return -(-n // 4) + -(-n // 8)
    return -(-n // (8 if k < 3 else 5 if k == 3 else 4 if k == 4 else 2))
