"""The interface of all quantizers: pure functions of (weights, parameters, state).

A quantizer is a frozen configuration with

    params, state = quantizer.init(w)                                          trained by optax; carried between steps
    soft, state, diagnostics = quantizer.apply(w, params, state, temperature)  what the network computes with
    codes = quantizer.codes(w, params, state)                                  uint8 [g, n]
    levels = quantizer.levels(params, state)                                   float32 [g, k], ascending

so that hardening, packing and the report are the same for all: the shipped weight is levels[codes]. `apply_groups` is
`apply` on groups [g, n] as `mecq_jax.granularity.to_groups` lays them out; every array of params and state has the
groups as its first axis, so that layers whose groups have one size are one call (see `mecq_jax.params`).
"""

import abc
import dataclasses
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mecq_jax.granularity import Granularity, PerTensor, from_groups, to_groups
from mecq_jax.quantizers._types import Codes, Groups, Levels, Params, State, Temperature


class Diagnostics(NamedTuple):
    """Diagnostics of one application of a quantizer; none but the entropy has a gradient.

    `apply_groups` gives them for each group, [g]; `apply` for the tensor, [].

    Attributes:
      entropy: mean entropy of the assignment, nats (0 for a rounding baseline).
      marginal_error: k max_j |beta_j - m_j|, the mass m_j of level j against its marginal beta_j; the worst group's.
      converged: share of groups whose solver met its tolerance.
      certain_share: share of weights with max_j p_ij > 0.99.
      min_level_mass: mass of the emptiest level of any group, times k.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers.baselines import STE
      >>> w = jnp.array([[-1.0, -0.6], [0.2, 0.9]], jnp.float32)
      >>> _, _, diagnostics = STE(bits=2).apply(w, *STE(bits=2).init(w))
      >>> float(diagnostics.min_level_mass)  # no weight takes the second level
      0.0
    """

    entropy: Float[Array, "*g"]
    marginal_error: Float[Array, "*g"]
    converged: Float[Array, "*g"]
    certain_share: Float[Array, "*g"]
    min_level_mass: Float[Array, "*g"]

    def over_groups(self) -> "Diagnostics":
        """The diagnostics of a tensor, [], from those of its groups, [g]."""
        return Diagnostics(
            self.entropy.mean(),
            self.marginal_error.max(),
            self.converged.mean(),
            self.certain_share.mean(),
            self.min_level_mass.min(),
        )


@runtime_checkable
class Quantizer(Protocol):
    """What `mecq_jax.params`, `mecq_jax.nn` and `mecq_jax.training` ask of a quantizer.

    A class with these names is one; `GroupedQuantizer` brings `apply`, `codes` and the number of levels with it.

    Attributes:
      k: number of levels of a group.
      granularity: which weights form a group.

    Example:
      >>> from mecq_jax.quantizers import MEC, Quantizer
      >>> isinstance(MEC(bits=2), Quantizer)
      True
    """

    @property
    def k(self) -> int:
        """Number of levels of a group."""

    @property
    def granularity(self) -> Granularity:
        """Which weights form a group."""

    def init(self, w: Array) -> tuple[Params, State]:
        """What training starts from for these weights."""

    def apply(
        self, w: Array, params: Params, state: State, temperature: Temperature | None
    ) -> tuple[Array, State, Diagnostics]:
        """The weights that the network computes with, the new state, and the tensor's diagnostics."""

    def apply_groups(
        self, groups: Groups, params: Params, state: State, temperature: Temperature | None
    ) -> tuple[Groups, State, Diagnostics]:
        """`apply` of groups, with the diagnostics of each."""

    def codes(self, w: Array, params: Params, state: State) -> Codes:
        """The level that each weight takes when it hardens."""

    def levels(self, params: Params, state: State) -> Levels:
        """The levels of each group, float32 and ascending."""


@partial(jax.jit, static_argnums=0)
def init_jitted(quantizer: Quantizer, w: Array) -> tuple[Params, State]:
    """`quantizer.init(w)`, compiled once for all weights of one shape: a network has many layers of few shapes.

    Args:
      quantizer: a quantizer, hashable.
      w: weights, any shape and floating type.

    Returns:
      Parameters and state.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers import init_jitted
      >>> from mecq_jax.quantizers.baselines import LSQ
      >>> params, state = init_jitted(LSQ(bits=2), jnp.ones((3, 2), jnp.float32))
      >>> params["step"].shape, state
      ((1,), {})
    """
    return quantizer.init(w)


class _ImpliedBits(int):
    """Bits that an instance has from its k, which k overrules: `dataclasses.replace(quantizer, k=8)` passes both."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupedQuantizer(abc.ABC):
    """What quantizers share: `apply` and `codes` of a tensor from those of its groups, and the number of levels.

    A subclass is a frozen dataclass that defines `init`, `apply_groups`, `group_codes` and `levels`.

    Attributes:
      k: number of levels of a group, 2 to 16; 2**bits if it is not given, 4 if neither is.
      bits: width of a code, 1 to 4; may be given in the place of k, and an instance has it from k. Equality and hash go
        by k alone.
      granularity: which weights form a group, and share what the quantizer keeps for one.

    Raises:
      TypeError: if k or bits is not an integer.
      ValueError: if k or bits is out of its bounds, or both are given and k is not 2**bits.

    Example:
      >>> import dataclasses
      >>> from mecq_jax.quantizers import MEC
      >>> MEC(bits=2) == MEC(k=4), MEC(k=3).bits
      (True, 2)
      >>> dataclasses.replace(MEC(bits=2), k=8).bits
      3
    """

    # None stands for "not given", in the call alone: an instance has both.
    k: int = None  # type: ignore[assignment]
    bits: int | None = dataclasses.field(default=None, repr=False, compare=False)
    granularity: Granularity = PerTensor()  # noqa: RUF009 (a frozen value)

    def __post_init__(self) -> None:
        """Derive k and bits from what was given, and refuse what packing cannot hold."""
        k, bits = self.k, self.bits
        if bits is not None:
            bits = _checked("bits", bits, 1, 4, "packing holds 1, 2, 3 or 4 bits; k = 3 gives ternary levels")
        if k is None:
            k = 2 ** (2 if bits is None else bits)
        k = _checked("k", k, 2, 16, "packing holds 2 to 16 levels (1 to 4 bits); k = 2**bits, or 3 for ternary")
        if bits is not None and k != 2**bits and not isinstance(self.bits, _ImpliedBits):
            both = f"k = {k} with bits = {bits}, which are {2**bits} levels"
            raise ValueError(f"{both}: give one of the two (`dataclasses.replace` takes k)")
        object.__setattr__(self, "k", k)
        object.__setattr__(self, "bits", _ImpliedBits((k - 1).bit_length()))

    @abc.abstractmethod
    def init(self, w: Array) -> tuple[Params, State]:
        """What training starts from for these weights.

        Args:
          w: weights, any shape and floating type.

        Returns:
          Parameters, which the optimizer trains, and state, which `apply` carries from step to step.
        """

    @abc.abstractmethod
    def apply_groups(
        self, groups: Groups, params: Params, state: State, temperature: Temperature | None
    ) -> tuple[Groups, State, Diagnostics]:
        """`apply` of groups as `mecq_jax.granularity.to_groups` lays them out, with the diagnostics of each.

        Args:
          groups: weights, [g, n], any floating type.
          params: parameters of these groups.
          state: state of these groups.
          temperature: epsilon / var(w) of each group, above 0; rounding baselines do not use it.

        Returns:
          The weights that the network computes with, [g, n], in the type of `groups`; the new state; diagnostics, [g].
        """

    @abc.abstractmethod
    def group_codes(self, groups: Groups, params: Params, state: State) -> Codes:
        """`codes` of groups as `mecq_jax.granularity.to_groups` lays them out, float32."""

    @abc.abstractmethod
    def levels(self, params: Params, state: State) -> Levels:
        """The levels of each group, [g, k], float32 and ascending."""

    def apply(
        self, w: Array, params: Params, state: State, temperature: Temperature | None = None
    ) -> tuple[Array, State, Diagnostics]:
        """The weights that the network computes with, differentiable in the weights and parameters.

        Args:
          w: weights, any shape and floating type.
          params: parameters, as from `init`.
          state: state, as from `init` or the last `apply`.
          temperature: epsilon / var(w) of each group, above 0; rounding baselines do not use it.

        Returns:
          The weights in the shape and type of `w`; the new state; diagnostics, [].

        Raises:
          TypeError: if the quantizer needs a temperature and none is given.
        """
        groups = to_groups(w, self.granularity)
        soft, state, diagnostics = self.apply_groups(groups, params, state, temperature)
        return from_groups(soft, w.shape, self.granularity), state, diagnostics.over_groups()

    def codes(self, w: Array, params: Params, state: State) -> Codes:
        """The level that each weight takes when it hardens.

        Args:
          w: weights, any shape and floating type.
          params: parameters, as from `init`.
          state: state, as from `init` or the last `apply`.

        Returns:
          The number of each weight's level, 0 to k - 1, uint8, in groups [g, n].
        """
        return self.group_codes(to_groups(w, self.granularity).astype(jnp.float32), params, state)

    def _needed(self, temperature: Temperature | None) -> Temperature:
        """The temperature, for quantizers that cannot do without."""
        if temperature is None:
            raise TypeError(
                f"temperature = None: {type(self).__name__} needs one above 0, such as 0.1 (epsilon / var(w))"
            )
        return temperature


def _checked(name: str, value: object, low: int, high: int, bounds: str) -> int:
    """`value` as an int; `bounds` says in words why it is from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} = {value!r} is a {type(value).__name__}, not an integer: {bounds}")
    if not low <= value <= high:
        raise ValueError(f"{name} = {value}: {bounds}")
    return int(value)
