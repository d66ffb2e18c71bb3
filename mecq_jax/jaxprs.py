"""Interpreting jaxprs: one walk over the equations of a traced function, whatever its values are."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from jax.extend import core, source_info_util

# Primitives that stand for the function that they hold, and the parameters in which they hold it.
CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "custom_jvp_call", "custom_vjp_call")
HELD = ("jaxpr", "call_jaxpr", "fun_jaxpr")

Value = TypeVar("Value")
Rule = TypeVar("Rule", bound=Callable[..., Any])


class Rules(dict[str, Callable[..., Any]]):
    """Functions by the names of the primitives that they are for.

    Example:
      >>> from mecq_jax.jaxprs import Rules
      >>> rules = Rules()
      >>> @rules.rule("add", "add_any")
      ... def add(x, y):
      ...     return x + y
      >>> rules["add_any"](1, 2)
      3
    """

    def rule(self, *primitives: str) -> Callable[[Rule], Rule]:
        """Make a decorator that registers a function as the rule of some primitives.

        Args:
          primitives: their names, as `equation.primitive.name` has them.

        Returns:
          The decorator, which returns the function as it is.
        """

        def register(f: Rule) -> Rule:
            self.update(dict.fromkeys(primitives, f))
            return f

        return register


def interpret(
    jaxpr: core.Jaxpr,
    consts: Sequence[Any],
    arguments: Sequence[Value],
    known: Callable[[Any], Value],
    equation: Callable[[core.JaxprEqn, list[Value], str], Sequence[Value]],
    place: str = "an unknown place",
) -> list[Value]:
    """Walk through the equations of a jaxpr in order, and return its outputs.

    Args:
      jaxpr: `jax.make_jaxpr(f)(...).jaxpr`; calls within it are walked through as if they were written out.
      consts: `jax.make_jaxpr(f)(...).consts`.
      arguments: values of its inputs, of any one type.
      known: array -> value, of constants.
      equation: (equation, values of its inputs, place in the source) -> values of its outputs.
      place: the place of an equation for which JAX records none.

    Returns:
      Values of its outputs.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mecq_jax.jaxprs import bind, interpret
      >>> traced = jax.make_jaxpr(lambda x: jnp.sin(x) * 2)(1.0)
      >>> run = lambda eqn, values, place: [print(eqn.primitive), *bind(eqn, values)][1:]
      >>> len(interpret(traced.jaxpr, traced.consts, [jnp.float32(0)], jnp.asarray, run))
      sin
      mul
      1
    """
    values: dict[core.Var, Value] = dict(zip(jaxpr.invars, arguments, strict=True))
    values.update(zip(jaxpr.constvars, map(known, consts), strict=True))

    def read(x: core.Var | core.Literal) -> Value:
        if isinstance(x, core.Var):
            return values[x]
        aval: Any = x.aval
        return known(np.asarray(x.val, aval.dtype))

    for eqn in jaxpr.eqns:
        here = source_info_util.summarize(eqn.source_info) or place  # equations of JAX's functions have no place
        inputs = [read(x) for x in eqn.invars]
        if eqn.primitive.name in CALLS:
            inner = next(eqn.params[field] for field in HELD if field in eqn.params)
            body, held = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
            outputs: Sequence[Value] = interpret(body, held, inputs, known, equation, here)
        else:
            outputs = equation(eqn, inputs, here)
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(x) for x in jaxpr.outvars]


def bind(eqn: core.JaxprEqn, arrays: Sequence[Any]) -> list[Any]:
    """Compute an equation on arrays.

    Args:
      eqn: an equation of a jaxpr.
      arrays: its inputs.

    Returns:
      Its outputs, a list even where there is one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mecq_jax.jaxprs import bind
      >>> (eqn,) = jax.make_jaxpr(jnp.negative)(1.0).eqns
      >>> [float(x) for x in bind(eqn, [jnp.float32(3)])]
      [-3.0]
    """
    primitive: Any = eqn.primitive
    outs = primitive.bind(*arrays, **eqn.params)
    return list(outs) if primitive.multiple_results else [outs]
