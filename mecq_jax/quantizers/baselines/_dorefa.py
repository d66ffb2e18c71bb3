"""DoReFa: tanh-squashed weights, rounded to equally spaced levels."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._base import Params, State
from mecq_jax.quantizers.baselines._uniform import Uniform, fitted_scale, spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoReFa(Uniform):
    """w^ = a (2 round((k - 1) x) / (k - 1) - 1),  x = tanh(w) / (2 max|tanh(w)|) + 1/2; k = 2: w^ = mean|w| sign(w).

    The derivative leaves out the rounding alone (all of it at k = 2). Published with a = 1 and batch norm behind; here
    a is `fitted_scale` at the start. Source: Zhou et al., 2016, arXiv 1606.06160, equations 7 and 9.

    Attributes:
      k: number of levels.
      granularity: which weights share the maximum.
    """

    def init(self, w: Array) -> tuple[Params, State]:
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        place = jnp.round((self.k - 1) * self._squashed(groups)) / (self.k - 1)
        return {}, self._follow(groups, {"scale": fitted_scale(groups, 2 * place - 1)})

    def _follow(self, groups, state):
        if self.k > 2:
            return state
        return {"scale": jnp.maximum(jnp.abs(jax.lax.stop_gradient(groups)).mean(axis=1), 1e-30)}

    def _squashed(self, groups):
        squashed = jnp.tanh(groups)
        return squashed / (2 * jnp.maximum(jnp.abs(squashed).max(axis=1, keepdims=True), 1e-30)) + 0.5

    def _hard(self, codes, params, state):
        return state["scale"][:, None] * spread(codes, self.k)

    def group_codes(self, groups, params, state):
        if self.k == 2:
            return (groups >= 0).astype(jnp.uint8)
        return jnp.round((self.k - 1) * self._squashed(groups)).astype(jnp.uint8)

    def _surrogate(self, groups, params, state, hard):
        if self.k == 2:
            return groups
        return state["scale"][:, None] * (2 * self._squashed(groups) - 1)
