"""ONNX graphs in the making: opset 13, IR 8, standard operators alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

OPSET, IR_VERSION = 13, 8  # which runtimes have known since 2021


class Graph:
    """Nodes and initializers; names are given as they come, equal initializers are one."""

    def __init__(self) -> None:
        import onnx  # an extra; only exporting needs it

        self.onnx = onnx
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._constants: dict[tuple[Any, ...], str] = {}
        self._known: dict[tuple[Any, ...], str] = {}

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
        """The name of a tensor in another shape; -1 for a dimension that follows from the others."""
        return self.node("Reshape", name, self.constant(shape, np.int64))

    def transpose(self, name: str, order: Sequence[int]) -> str:
        """The name of a tensor with its dimensions in this order."""
        order = [int(i) for i in order]
        return name if order == sorted(order) else self.node("Transpose", name, perm=order)

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any], notes: dict[str, str]) -> Any:
        """The checked ModelProto of the nodes; inputs and outputs: (name, shape, dtype) with str or int dimensions."""
        helper = self.onnx.helper

        def info(name: str, shape: Sequence[int | str | None], dtype: Any) -> Any:
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
