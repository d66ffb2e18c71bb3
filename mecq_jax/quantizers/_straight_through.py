"""What baselines that round share: the network computes with levels[codes], straight-through.

Each defines `group_codes` and `_surrogate`, a differentiable function of the weights and parameters. The value is
levels[codes] to the bit, the derivative that of the surrogate. The method itself, `mecq_jax.quantizers.MEC`, rounds
nothing.
"""

import abc

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer

from mecq_jax import transport
from mecq_jax.quantizers._base import Diagnostics, GroupedQuantizer
from mecq_jax.quantizers._types import Codes, Groups, Levels, Params, State, Temperature


def straight_through(value: Array, surrogate: Array) -> Array:
    """`value` to the bit, with the derivative of `surrogate`: the straight-through estimator.

    Args:
      value: what is returned, any shape and floating type.
      surrogate: what is differentiated, in the shape and type of `value`.

    Returns:
      `value`, differentiable.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers import straight_through
      >>> jax.value_and_grad(lambda w: straight_through(jnp.round(w), 2 * w))(jnp.float32(0.7))
      (Array(1., dtype=float32), Array(2., dtype=float32))
    """
    return jax.lax.stop_gradient(value) + (surrogate - jax.lax.stop_gradient(surrogate))


class StraightThrough(GroupedQuantizer):
    """A quantizer that rounds: levels[codes] in value, `_surrogate` in derivative.

    A subclass defines `init`, `group_codes`, `levels` and `_surrogate`. Attributes are those of `GroupedQuantizer`.

    Example:
      >>> from mecq_jax.quantizers import MEC, StraightThrough
      >>> from mecq_jax.quantizers.baselines import LSQ
      >>> isinstance(LSQ(bits=2), StraightThrough), isinstance(MEC(bits=2), StraightThrough)
      (True, False)
    """

    def _follow(self, groups: Groups, state: State) -> State:
        """The state for these weights."""
        return state

    @abc.abstractmethod
    def _surrogate(self, groups: Groups, params: Params, state: State, hard: Groups) -> Groups:
        """A function of the weights and parameters whose derivative stands for rounding's; `hard` is levels[codes]."""

    def _hard(self, codes: Integer[Array, "#g n"], params: Params, state: State) -> Groups:
        """levels[codes]."""
        return jnp.take_along_axis(self.levels(params, state), codes.astype(jnp.int32), axis=1)

    def apply_groups(
        self, groups: Groups, params: Params, state: State, temperature: Temperature | None
    ) -> tuple[Groups, State, Diagnostics]:
        """Rounded weights; `temperature` is not used."""
        w = groups.astype(jnp.float32)
        state = self._follow(jax.lax.stop_gradient(w), state)
        codes = self.group_codes(jax.lax.stop_gradient(w), params, state)
        hard = self._hard(codes, params, state)
        value = straight_through(hard, self._surrogate(w, params, state, hard))
        return value.astype(groups.dtype), state, hard_diagnostics(codes, self.k)


def hard_diagnostics(codes: Codes, k: int) -> Diagnostics:
    """The diagnostics of hard codes, each certain.

    Args:
      codes: the level of each weight, [g, n].
      k: number of levels.

    Returns:
      Diagnostics of each group, [g].

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers import hard_diagnostics
      >>> hard_diagnostics(jnp.array([[0, 0, 0, 1]], jnp.uint8), k=2).min_level_mass
      Array([0.5], dtype=float32)
    """
    zero = jnp.zeros(codes.shape[0], jnp.float32)
    lowest = jax.vmap(lambda c: transport.occupancy(c, k))(codes).min(axis=1) * k
    return Diagnostics(zero, zero, zero + 1, zero + 1, lowest)


def nearest_codes(w: Groups, levels: Levels) -> Codes:
    """The nearest of ascending levels, the lower one at a tie.

    Args:
      w: weights, [g, n].
      levels: levels, [g, k], ascending.

    Returns:
      The number of each weight's level, [g, n].

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers import nearest_codes
      >>> w, levels = jnp.array([[-0.9, 0.0, 0.4]], jnp.float32), jnp.array([[-1.0, 1.0]], jnp.float32)
      >>> nearest_codes(w, levels)
      Array([[0, 0, 1]], dtype=uint8)
    """
    return jax.vmap(lambda w, q: transport.hard_codes(w, q, jnp.zeros_like(q)))(w, levels)
