"""A walk over a network that puts its numbers on an integer grid (see `_convert`)."""

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mecq_jax import jaxprs
from mecq_jax.export._batch import shaped
from mecq_jax.export._integer_grid._ranges import LARGEST, Range, Round, range_of, rounding
from mecq_jax.inference import Forward

Equation = Any  # of a jaxpr; what primitives put in its `params` and `aval`s has no types
Result = tuple[list[Any], Range | None]  # of a rule: outputs and their range
Rules = Mapping[str, Callable[..., Result]]  # by primitive: (walk, equation, *values) -> result


class InexactError(ValueError):
    """The network computes something that runtimes do not compute alike; the message names it and its place.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax import export
      >>> try:
      ...     export.integer_grid(lambda arrays, x: jnp.exp(x), {}, jnp.ones((1, 3)))
      ... except export.InexactError as error:
      ...     print(str(error)[:18])
      exp of activations
    """


class Kind(enum.IntEnum):
    """What an array depends on: the greatest of what it is computed from."""

    KNOWN, WEIGHT, ACTIVATION = 0, 1, 2


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array, what it depends on, and its range for every input (None: not known, or any float32)."""

    array: Any
    kind: Kind
    range: Range | None = None

    @property
    def bounds(self) -> Range:
        """The range of a value that has one: known arrays by `Walk.constant`, activations by `Walk.rounded`."""
        assert self.range is not None
        return self.range


class Walk:
    """An interpreter of the network's jaxpr that rounds where the rules ask for it.

    The first walk runs on real inputs and keeps what it chooses (roundings, rounded constants, ranges of weights); the
    later ones take the same choices in the same order, so that they can be traced.
    """

    def __init__(self, rules: Rules, activation_bits: int, choices: list[Any] | None = None) -> None:
        """Begin a walk.

        Args:
          rules: of primitives.
          activation_bits: of an activation where it meets weights.
          choices: of the first walk; None for the first itself.
        """
        self.rules, self.activation_bits, self.choosing = rules, activation_bits, choices is None
        self.choices: list[Any] = [] if choices is None else choices
        self.taken, self.largest, self.primitive = 0, 0.0, ""

    def __call__(self, forward: Forward, kinds: Mapping[str, Kind], arrays: Mapping[str, Any], x: Any) -> Any:
        """The network's output."""
        names = sorted(kinds)
        given = [arrays[n] for n in names]
        shapes = [shaped(a.shape, a.dtype) for a in (*given, x)]
        traced = jax.make_jaxpr(lambda *flat: forward(dict(zip(names, flat[:-1], strict=True)), flat[-1]))(*shapes)
        values = [Value(a, kinds[n]) for n, a in zip(names, given, strict=True)]
        values.append(Value(x, Kind.ACTIVATION, _range_of_type(x.dtype)))
        known = lambda array: Value(array, Kind.KNOWN)  # noqa: E731
        (out,) = jaxprs.interpret(traced.jaxpr, traced.consts, values, known, self._equation)
        if self.taken != len(self.choices):
            raise self._other_course()
        return out.array

    def _equation(self, eqn: Equation, inputs: list[Value], place: str) -> list[Value]:
        """The outputs of an equation: by its rule where it is of activations, by JAX where it is not."""
        kind = max((x.kind for x in inputs), default=Kind.KNOWN)
        if kind != Kind.ACTIVATION:
            return [Value(x, kind) for x in jaxprs.bind(eqn, [x.array for x in inputs])]
        try:
            if eqn.primitive.name not in self.rules:
                raise InexactError(
                    f"{eqn.primitive.name} of activations is no sum or product of known scale, and runtimes compute "
                    "it differently; export the network as it is, where they agree within 1e-5"
                )
            self.primitive = eqn.primitive.name
            outs, found = self.rules[eqn.primitive.name](self, eqn, *inputs)
            return [Value(x, kind, self._checked(found)) for x in outs]
        except InexactError as error:
            raise InexactError(f"{error} (at {place})") from error

    def _checked(self, found: Range | None) -> Range | None:
        """A range that float32 holds exactly; InexactError otherwise."""
        if found is not None:
            self.largest = max(self.largest, found.size)
            if found.size > LARGEST:
                raise InexactError(
                    f"a sum can reach {found.size:.3g} units, and float32 is exact to 2^24 = {LARGEST:.3g}; "
                    "take fewer activation_bits or level_bits"
                )
        return found

    def choose(self, choice: Callable[[], Any]) -> Any:
        """What the first walk chose here."""
        if self.choosing:
            self.choices.append((self.primitive, choice()))
        self.taken += 1
        if self.taken > len(self.choices) or self.choices[self.taken - 1][0] != self.primitive:
            raise self._other_course()
        return self.choices[self.taken - 1][1]

    @staticmethod
    def _other_course() -> InexactError:
        """What is raised where a walk does not meet the choices of the first."""
        return InexactError(
            "on these inputs the network takes another course than on those that set its ranges; give "
            "inputs of one shape and type, but for their number"
        )

    def rounded(self, x: Value, largest: int) -> Value:
        """An activation in at most `largest` steps of either sign."""
        found = x.range or Range(2.0**-149, -np.inf, np.inf)
        step = self.choose(lambda: rounding(found, np.asarray(x.array, np.float32), largest))
        return self.stepped(x, step)

    def stepped(self, x: Value, step: Round | None) -> Value:
        """An activation under a rounding."""
        return x if step is None else Value(step(x.array), x.kind, step.range)

    def constant(self, x: Value, short: Callable[[np.ndarray], np.ndarray]) -> Value:
        """A known array rounded once and for all: another runtime might compute it with other last bits.

        Weights are on their grid already.
        """
        if x.kind == Kind.WEIGHT:
            return Value(x.array, x.kind, self.choose(lambda: range_of(np.asarray(x.array))))
        array = self.choose(lambda: short(np.asarray(x.array, np.float32)).astype(np.float32))
        if not np.isfinite(array).all():
            raise InexactError("a constant that is not finite, among activations")
        return Value(jnp.asarray(array), x.kind, range_of(array))


def _range_of_type(dtype: Any) -> Range | None:
    """The range of whatever comes in a type; None for floats."""
    if dtype == np.bool_:
        return Range(1.0, 0.0, 1.0)
    if dtype in (np.uint8, np.int8, np.int16, np.uint16):
        return Range(1.0, float(np.iinfo(dtype).min), float(np.iinfo(dtype).max))
    return None
