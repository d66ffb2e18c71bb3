"""The one interface of all quantizers: pure functions of (weights, parameters, state).

A quantizer is a frozen configuration with

    params, state = quantizer.init(w)                             what optax trains; what is carried between steps
    soft, state, info = quantizer.apply(w, params, state, eps)    the weights that the network computes with
    codes = quantizer.codes(w, params, state)                     uint8 [g, n]
    levels = quantizer.levels(params, state)                      float32 [g, k], ascending

so that hardening, packing and the report are the same for all: the shipped weight is levels[codes]. `apply_groups` is
`apply` on groups [g, n] as `grouping` lays them out; every array of params and state has the groups as its first axis,
so that layers whose groups have one size are one call (see `tree`). `mec` holds the method, `uniform`,
`nonuniform` and `annealed` its rivals, and `catalog` their names.
"""

import abc
import dataclasses
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mecq_jax.granularity import Granularity, PerTensor, from_groups, to_groups

Params = dict[str, Array]
State = dict[str, Array]


class Diagnostics(NamedTuple):
    """Diagnostics of one application; no gradient but the entropy's. `apply_groups` gives them for each group, [g].

    Attributes:
      entropy: mean entropy of the assignment, nats (0 for a rounding baseline).
      marginal_error: k max_j |beta_j - m_j|; the worst group's.
      converged: share of groups whose solver met its tolerance.
      certain_share: share of weights with max_j p_ij > 0.99.
      min_level_mass: mass of the emptiest level of any group, times k.
    """

    entropy: Float[Array, "*g"]
    marginal_error: Float[Array, "*g"]
    converged: Float[Array, "*g"]
    certain_share: Float[Array, "*g"]
    min_level_mass: Float[Array, "*g"]

    def over_groups(self) -> "Diagnostics":
        """The diagnostics of a tensor from those of its groups."""
        return Diagnostics(
            self.entropy.mean(),
            self.marginal_error.max(),
            self.converged.mean(),
            self.certain_share.mean(),
            self.min_level_mass.min(),
        )


@runtime_checkable
class Quantizer(Protocol):
    """What `tree`, `layers` and `training` ask of a quantizer (see the module docstring)."""

    @property
    def k(self) -> int: ...
    @property
    def granularity(self) -> Granularity: ...
    def init(self, w: Array) -> tuple[Params, State]: ...
    def apply(self, w: Array, params: Params, state: State, temperature: Any) -> tuple[Array, State, Diagnostics]: ...
    def apply_groups(
        self, groups: Array, params: Params, state: State, temperature: Any
    ) -> tuple[Array, State, Diagnostics]: ...
    def codes(self, w: Array, params: Params, state: State) -> UInt8[Array, "g n"]: ...
    def levels(self, params: Params, state: State) -> Float[Array, "g k"]: ...


@partial(jax.jit, static_argnums=0)
def init_jitted(quantizer: Quantizer, w: Array) -> tuple[Params, State]:
    """`quantizer.init(w)`, compiled once for all weights of one shape: a network has many layers of few shapes."""
    return quantizer.init(w)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupedQuantizer(abc.ABC):
    """What quantizers share: `apply` and `codes` of a tensor from those of its groups, and the bounds of k.

    Attributes:
      k: number of levels, 2 to 16; 0 stands for 2**bits, or 4 without bits.
      bits: 1 to 4, in the place of k; on the instance it is None, and k says how many levels there are.
      granularity: which weights form a group, and share what the quantizer keeps for one.
    """

    k: int = 0
    bits: dataclasses.InitVar[int | None] = None
    granularity: Granularity = PerTensor()  # noqa: RUF009 (a frozen value)

    def __post_init__(self, bits: int | None) -> None:
        if bits is not None:
            if bits not in (1, 2, 3, 4):
                raise ValueError(f"bits = {bits!r}: packing holds 1, 2, 3 or 4 bits; k = 3 gives ternary levels")
            if self.k not in (0, 2**bits):
                raise ValueError(f"k = {self.k} with bits = {bits}, which are {2**bits} levels; give one of the two")
        object.__setattr__(self, "k", self.k or 2 ** (bits or 2))
        if not 2 <= self.k <= 16:
            raise ValueError(f"k = {self.k} levels: packing holds 2 to 16 (1 to 4 bits); k = 2**bits, or 3 for ternary")

    @abc.abstractmethod
    def apply_groups(
        self, groups: Array, params: Params, state: State, temperature: Any
    ) -> tuple[Array, State, Diagnostics]:
        """`apply` of groups as `grouping` lays them out, with the diagnostics of each."""

    @abc.abstractmethod
    def group_codes(self, groups: Float[Array, "g n"], params: Params, state: State) -> UInt8[Array, "g n"]:
        """`codes` of groups as `grouping` lays them out, float32."""

    def apply(
        self, w: Array, params: Params, state: State, temperature: Float[Array, ""] | float | None = None
    ) -> tuple[Array, State, Diagnostics]:
        """The weights that the network computes with, in the shape and type of `w`; the new state; diagnostics.

        `temperature` is epsilon / var(w) of each group; rounding baselines do not use it.
        """
        soft, state, info = self.apply_groups(to_groups(w, self.granularity), params, state, temperature)
        return from_groups(soft, w.shape, self.granularity), state, info.over_groups()

    def codes(self, w: Array, params: Params, state: State) -> UInt8[Array, "g n"]:
        """The level that each weight takes when it hardens."""
        return self.group_codes(to_groups(w, self.granularity).astype(jnp.float32), params, state)
