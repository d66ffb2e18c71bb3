"""From a traced JAX function to ONNX nodes: an interpreter of jaxprs.

What depends on no input is computed here, once. A broadcast is kept as a shape to come ("lazy") for as long as
elementwise operators do it by themselves, so that a bias stays as small as it was. One dimension may be symbolic, the
batch. The rule of each primitive is in `_elementwise`, `_shapes` or `_contractions`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mecq_jax import jaxprs
from mecq_jax.export._onnx._graph import Graph

TYPES = ("float32", "int32", "int64", "uint8", "int8", "bool")
Equation = Any  # of a jaxpr; what primitives put in its `params` and `aval`s has no types


class UnsupportedError(ValueError):
    """The model uses something that cannot be exported; the message names it and its place in the source.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax import export
      >>> try:
      ...     export.onnx_model(lambda arrays, x: jnp.sort(x), {}, jnp.ones((1, 3)))
      ... except export.UnsupportedError as error:
      ...     print(str(error)[:23])
      sort cannot be exported
    """


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph, or a known array.

    Attributes:
      shape: the shape that JAX gives it.
      held: the shape of what `name` or `array` holds: that of JAX, or 1 where a broadcast is still to come.
      dtype: its type.
      name: of a tensor of the graph; or None, and
      array: a known array.
    """

    shape: tuple[Any, ...]
    held: tuple[Any, ...]
    dtype: np.dtype
    name: str | None = None
    array: np.ndarray | None = None

    @property
    def lazy(self) -> bool:
        """Whether a broadcast is still to come."""
        return self.held != self.shape


Result = Value | str | tuple[Value | str, ...]  # of a rule; str: the name of a tensor in its whole shape
Rules = Mapping[str, Callable[..., Result]]  # by primitive: (trace, equation, *values) -> values


def known(array: Any, shape: tuple[Any, ...] | None = None) -> Value:
    """The value of an array, broadcast to `shape` when it is needed."""
    array = np.asarray(array)
    return Value(array.shape if shape is None else shape, array.shape, array.dtype, array=array)


class Trace:
    """The graph in the making and what a rule needs of it."""

    def __init__(self, graph: Graph, rules: Rules, batch: Any = None, batch_of: str = "") -> None:
        """Begin a graph.

        Args:
          graph: where nodes go.
          rules: of primitives.
          batch: the symbolic dimension, if there is one.
          batch_of: the graph's input whose first dimension it is.
        """
        self.graph, self.rules, self.batch, self.batch_of = graph, rules, batch, batch_of

    def name(self, value: Value) -> str:
        """The tensor as it is held; elementwise operators broadcast it."""
        return value.name if value.name is not None else self.graph.constant(value.array)

    def full(self, value: Value) -> str:
        """The tensor in its whole shape."""
        if not value.lazy:
            return self.name(value)
        return self.graph.node("Expand", self.name(value), self._shape(value.shape))

    def dims(self, shape: Sequence[Any]) -> list[int]:
        """A shape for Reshape: -1 where it is symbolic."""
        out = [int(d) if isinstance(d, int | np.integer) else -1 for d in shape]
        if out.count(-1) > 1:
            raise UnsupportedError(f"shape {tuple(shape)} has more than one dimension that depends on the batch")
        return out

    def reshaped(self, value: Value, shape: Sequence[Any]) -> str:
        """The whole tensor in another shape."""
        same = tuple(value.shape) == tuple(shape)
        return self.full(value) if same else self.graph.reshape(self.full(value), self.dims(shape))

    def _shape(self, shape: Sequence[Any]) -> str:
        """A shape as a tensor."""
        if self.batch is None or all(isinstance(d, int | np.integer) for d in shape):
            return self.graph.constant([int(d) for d in shape], np.int64)
        graph = self.graph
        whole, zero, one = graph.node("Shape", self.batch_of), *(graph.constant([i], np.int64) for i in (0, 1))
        size = graph.node("Slice", whole, zero, one, zero)
        for d in shape:
            if not (isinstance(d, int | np.integer) or d == self.batch):
                raise UnsupportedError(f"a broadcast to {tuple(shape)}: {d} is neither a number nor the batch")
        parts = [size if d == self.batch else graph.constant([int(d)], np.int64) for d in shape]
        return graph.node("Concat", *parts, axis=0)

    def run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Value]) -> list[Value]:
        """The outputs of a jaxpr."""
        return jaxprs.interpret(jaxpr, consts, arguments, known, self._equation)

    def _equation(self, eqn: Equation, inputs: list[Value], place: str) -> list[Value]:
        """The outputs of an equation."""
        primitive = eqn.primitive.name
        if primitive != "broadcast_in_dim" and not any(x.name for x in inputs) and _static(eqn):
            return _computed(eqn, inputs)
        try:
            if primitive not in self.rules:
                raise UnsupportedError(
                    f"{primitive} cannot be exported; use operators of a network: products, convolutions, sums, "
                    "elementwise functions"
                )
            out = self.rules[primitive](self, eqn, *inputs)
            outs = out if isinstance(out, tuple) else (out,)
            return [self._value(x, v.aval) for x, v in zip(outs, eqn.outvars, strict=True)]
        except (UnsupportedError, jax.errors.InconclusiveDimensionOperation) as error:
            raise UnsupportedError(f"{error} (at {place})") from error

    def _value(self, out: Value | str, aval: Any) -> Value:
        """What a rule gave as a value, of a type that files hold."""
        if isinstance(out, Value) and out.array is not None:
            return out
        if aval.dtype.name not in TYPES:
            raise UnsupportedError(f"a tensor of type {aval.dtype}; let the model compute in float32 for export")
        return out if isinstance(out, Value) else Value(aval.shape, aval.shape, np.dtype(aval.dtype), name=out)


def _static(eqn: Equation) -> bool:
    """Whether JAX can compute it now: no dimension depends on the batch."""
    return not eqn.effects and all(isinstance(d, int) for v in (*eqn.invars, *eqn.outvars) for d in v.aval.shape)


def _computed(eqn: Equation, inputs: Sequence[Value]) -> list[Value]:
    """An equation of known arrays, by JAX itself."""
    with jax.ensure_compile_time_eval():
        outs = jaxprs.bind(eqn, [np.broadcast_to(x.array, x.shape) for x in inputs])  # type: ignore[arg-type]
    return [known(x) for x in outs]
