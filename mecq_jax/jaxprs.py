"""Interpreting jaxprs: one walk over the equations of a traced function, whatever its values are."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend import core, source_info_util

# Primitives that stand for the function that they hold, and the parameters in which they hold it.
CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "custom_jvp_call", "custom_vjp_call")
HELD = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class Rules(dict[str, Callable]):
    """Functions by the names of the primitives that they are for."""

    def rule(self, *primitives: str) -> Callable[[Callable], Callable]:
        """Register a function as the rule of these primitives."""

        def register(f: Callable) -> Callable:
            self.update(dict.fromkeys(primitives, f))
            return f

        return register


def interpret(
    jaxpr: Any,
    consts: Sequence[Any],
    arguments: Sequence[Any],
    known: Callable[[Any], Any],
    equation: Callable[[Any, list[Any], str], Sequence[Any]],
    place: str = "an unknown place",
) -> list[Any]:
    """The outputs of a jaxpr.

    Args:
      jaxpr, consts: as of `jax.make_jaxpr(f)(...)`; calls within it are walked through as if they were written out.
      arguments: values of its inputs, of any type.
      known: array -> value, of constants.
      equation: (equation, values of its inputs, place in the source) -> values of its outputs.
      place: what is called so where JAX records none.
    """
    values: dict[Any, Any] = dict(zip(jaxpr.invars, arguments, strict=True))
    values.update(zip(jaxpr.constvars, map(known, consts), strict=True))

    def read(x: Any) -> Any:
        return values[x] if isinstance(x, core.Var) else known(np.asarray(x.val, x.aval.dtype))

    for eqn in jaxpr.eqns:
        here = source_info_util.summarize(eqn.source_info) or place  # what JAX's own functions do has no place
        inputs = [read(x) for x in eqn.invars]
        if eqn.primitive.name in CALLS:
            inner = next(eqn.params[field] for field in HELD if field in eqn.params)
            body, own = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
            outputs: Sequence[Any] = interpret(body, own, inputs, known, equation, here)
        else:
            outputs = equation(eqn, inputs, here)
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(x) for x in jaxpr.outvars]


def bind(eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """The outputs of an equation on arrays."""
    outs = eqn.primitive.bind(*arrays, **eqn.params)
    return list(outs) if eqn.primitive.multiple_results else [outs]
