"""The ONNX form of the JAX primitives that act on each element by itself."""

from typing import Any

import numpy as np
from jax import lax

from mecq_jax import jaxprs
from mecq_jax.export._onnx._trace import Equation, Trace, UnsupportedError, Value

RULES = jaxprs.Rules()
Step = tuple[Any, ...]  # an operator and its operands, see `_nodes`
UNARY = {
    "neg": "Neg",
    "exp": "Exp",
    "log": "Log",
    "tanh": "Tanh",
    "logistic": "Sigmoid",
    "erf": "Erf",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "sign": "Sign",
    "floor": "Floor",
    "ceil": "Ceil",
    "sin": "Sin",
    "cos": "Cos",
    "not": "Not",
}
BINARY = {
    "add": "Add",
    "add_any": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "pow": "Pow",
    "eq": "Equal",
    "lt": "Less",
    "gt": "Greater",
    "le": "LessOrEqual",
    "ge": "GreaterOrEqual",
    "and": "And",
    "or": "Or",
}


def _nodes(trace: Trace, eqn: Equation, inputs: tuple[Value, ...], *steps: Step, **attributes: Any) -> Value:
    """The value of `steps`, (operator, operands): an operand is a place in `inputs`, "last", or a constant array."""
    names = [trace.name(x) for x in inputs]
    out = ""
    for kind, *operands in steps:
        found = [out if x == "last" else names[x] if isinstance(x, int) else trace.graph.constant(x) for x in operands]
        out = trace.graph.node(kind, *found, **attributes)
    aval = eqn.outvars[0].aval
    rank = len(aval.shape)
    padded = [(1,) * (rank - len(x.held)) + x.held for x in inputs]
    held = tuple(next((d for d in column if d != 1), 1) for column in zip(*padded, strict=True))
    return Value(tuple(aval.shape), held, np.dtype(aval.dtype), name=out)


@RULES.rule(*UNARY)
def _unary(trace: Trace, eqn: Equation, x: Value) -> Value:
    return _nodes(trace, eqn, (x,), (UNARY[eqn.primitive.name], 0))


@RULES.rule(*BINARY)
def _binary(trace: Trace, eqn: Equation, x: Value, y: Value) -> Value:
    if eqn.primitive.name in ("and", "or") and x.dtype != np.bool_:
        raise UnsupportedError(f"{eqn.primitive.name} of {x.dtype}: bitwise operators cannot be exported")
    return _nodes(trace, eqn, (x, y), (BINARY[eqn.primitive.name], 0, 1))


@RULES.rule("round")
def _round(trace: Trace, eqn: Equation, x: Value) -> Value:
    if eqn.params["rounding_method"] != lax.RoundingMethod.TO_NEAREST_EVEN:
        raise UnsupportedError("rounding halves away from zero; use jnp.round, which takes the even neighbour")
    return _nodes(trace, eqn, (x,), ("Round", 0))


@RULES.rule("rem")
def _rem(trace: Trace, eqn: Equation, x: Value, y: Value) -> Value:
    return _nodes(trace, eqn, (x, y), ("Mod", 0, 1), fmod=1)  # with the sign of x, as in C


@RULES.rule("ne")
def _ne(trace: Trace, eqn: Equation, x: Value, y: Value) -> Value:
    return _nodes(trace, eqn, (x, y), ("Equal", 0, 1), ("Not", "last"))


@RULES.rule("rsqrt")
def _rsqrt(trace: Trace, eqn: Equation, x: Value) -> Value:
    return _nodes(trace, eqn, (x,), ("Sqrt", 0), ("Reciprocal", "last"))


@RULES.rule("square")
def _square(trace: Trace, eqn: Equation, x: Value) -> Value:
    return _nodes(trace, eqn, (x,), ("Mul", 0, 0))


@RULES.rule("integer_pow")
def _integer_pow(trace: Trace, eqn: Equation, x: Value) -> Value:
    y = eqn.params["y"]
    step = ("Mul", 0, 0) if y == 2 else ("Pow", 0, np.asarray(y, x.dtype))
    return _nodes(trace, eqn, (x,), step)


@RULES.rule("erfc")
def _erfc(trace: Trace, eqn: Equation, x: Value) -> Value:
    return _nodes(trace, eqn, (x,), ("Erf", 0), ("Sub", np.asarray(1, x.dtype), "last"))


@RULES.rule("log1p")
def _log1p(trace: Trace, eqn: Equation, x: Value) -> Value:
    return _nodes(trace, eqn, (x,), ("Add", 0, np.asarray(1, x.dtype)), ("Log", "last"))


@RULES.rule("expm1")
def _expm1(trace: Trace, eqn: Equation, x: Value) -> Value:
    return _nodes(trace, eqn, (x,), ("Exp", 0), ("Sub", "last", np.asarray(1, x.dtype)))


@RULES.rule("clamp")
def _clamp(trace: Trace, eqn: Equation, low: Value, x: Value, high: Value) -> Value:
    return _nodes(trace, eqn, (low, x, high), ("Max", 1, 0), ("Min", "last", 2))


@RULES.rule("select_n")
def _select_n(trace: Trace, eqn: Equation, which: Value, *cases: Value) -> Value:
    if which.dtype != np.bool_ or len(cases) != 2:
        raise UnsupportedError(f"a choice by {which.dtype} among {len(cases)} cases; use jnp.where")
    return _nodes(trace, eqn, (which, *cases), ("Where", 0, 2, 1))


@RULES.rule("convert_element_type")
def _convert(trace: Trace, eqn: Equation, x: Value) -> Value:
    if x.dtype == eqn.outvars[0].aval.dtype:
        return x
    kind = trace.graph.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
    aval, out = eqn.outvars[0].aval, trace.graph.node("Cast", trace.name(x), to=int(kind))
    return Value(tuple(aval.shape), x.held, np.dtype(aval.dtype), name=out)


@RULES.rule("stop_gradient", "copy", "optimization_barrier", "sharding_constraint", "name")
def _same(trace: Trace, eqn: Equation, *values: Value) -> tuple[Value, ...]:
    return values
