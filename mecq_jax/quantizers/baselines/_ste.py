"""Rounding at the largest magnitude with the straight-through estimator."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._base import Params, State
from mecq_jax.quantizers.baselines._uniform import Uniform


@dataclasses.dataclass(frozen=True, kw_only=True)
class STE(Uniform):
    """Uniform rounding at the largest magnitude: k levels at the middles of k equal parts of [-a, a], a = max|w|.

    The bound a follows the weights and carries no gradient; the weights' gradient is straight-through.

    Attributes:
      k: number of levels.
      granularity: which weights share a.
    """

    def init(self, w: Array) -> tuple[Params, State]:
        return {}, self._follow(to_groups(w, self.granularity).astype(jnp.float32), {})

    def _follow(self, groups, state):
        return {"bound": jnp.maximum(jnp.abs(jax.lax.stop_gradient(groups)).max(axis=1), 1e-30)}

    def _hard(self, codes, params, state):
        return 2 / self.k * state["bound"][:, None] * (codes.astype(jnp.float32) - (self.k - 1) / 2)

    def group_codes(self, groups, params, state):
        place = groups / (2 / self.k * state["bound"][:, None]) + (self.k - 1) / 2
        return jnp.clip(jnp.round(place), 0.0, self.k - 1.0).astype(jnp.uint8)

    def _surrogate(self, groups, params, state, hard):
        return groups
