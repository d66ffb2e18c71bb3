"""What the rivals that round share: the network computes with levels[codes], straight-through.

Each defines `group_codes` and `_surrogate`, a differentiable function of the weights and parameters. The value is
levels[codes] to the bit, the derivative that of the surrogate. `uniform` and `nonuniform` hold the rivals; the method
itself (`mec`) rounds nothing.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mecq_jax import transport
from mecq_jax.quantizers._base import Diagnostics, GroupedQuantizer, Params, State

Groups = Float[Array, "g n"]
Levels = Float[Array, "g k"]


def straight_through(value: Array, surrogate: Array) -> Array:
    """`value` to the bit, with the derivative of `surrogate`: the straight-through estimator."""
    return jax.lax.stop_gradient(value) + (surrogate - jax.lax.stop_gradient(surrogate))


class StraightThrough(GroupedQuantizer):
    """levels[codes] with the derivative of `_surrogate`; a rival says what is abstract here."""

    def _follow(self, groups: Groups, state: State) -> State:
        """The state for these weights."""
        return state

    @abc.abstractmethod
    def _surrogate(self, groups: Groups, params: Params, state: State, hard: Groups) -> Groups:
        """A function of the weights and parameters whose derivative stands for rounding's; `hard` is levels[codes]."""

    @abc.abstractmethod
    def levels(self, params: Params, state: State) -> Levels: ...

    def _hard(self, codes: UInt8[Array, "g n"], params: Params, state: State) -> Groups:
        """levels[codes]."""
        return jnp.take_along_axis(self.levels(params, state), codes.astype(jnp.int32), axis=1)

    def apply_groups(
        self, groups: Array, params: Params, state: State, temperature: Any
    ) -> tuple[Array, State, Diagnostics]:
        """Rounded weights; `temperature` is not used."""
        w = groups.astype(jnp.float32)
        state = self._follow(jax.lax.stop_gradient(w), state)
        codes = self.group_codes(jax.lax.stop_gradient(w), params, state)
        hard = self._hard(codes, params, state)
        value = straight_through(hard, self._surrogate(w, params, state, hard))
        return value.astype(groups.dtype), state, hard_diagnostics(codes, self.k)


def hard_diagnostics(codes: UInt8[Array, "g n"], k: int) -> Diagnostics:
    """The diagnostics of hard codes."""
    zero = jnp.zeros(codes.shape[0], jnp.float32)
    lowest = jax.vmap(lambda c: transport.occupancy(c, k))(codes).min(axis=1) * k
    return Diagnostics(zero, zero, zero + 1, zero + 1, lowest)


def nearest_codes(w: Groups, levels: Levels) -> UInt8[Array, "g n"]:
    """The nearest of ascending levels, the lower one at a tie."""
    return jax.vmap(lambda w, q: transport.hard_codes(w, q, jnp.zeros_like(q)))(w, levels)
