"""Element-wise gradient scaling in the place of the straight-through estimator."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._base import Params, State
from mecq_jax.quantizers.baselines._uniform import Uniform, fitted_scale, spread


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def scaled_round(x: Array, delta: float) -> Array:
    """round(x) whose derivative scales each cotangent c by 1 + delta sign(c) (x - round(x)); x counts levels."""
    return jnp.round(x)


scaled_round.defvjp(
    lambda x, delta: (jnp.round(x), x - jnp.round(x)), lambda delta, off, c: (c * (1 + delta * jnp.sign(c) * off),)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EWGS(Uniform):
    """Element-wise gradient scaling: w^ = a (2 round((k - 1) x) / (k - 1) - 1),  x = clip((w - l) / (u - l), 0, 1).

    The cotangent of a rounded number is scaled by 1 + delta sign(c) (x_n - x_q), in units of the range as published.
    l and u start at -3 and 3 standard deviations (k = 2: -1 and 1), a at `fitted_scale`; all three are learnt.
    Source: Lee, Kim and Ham, CVPR 2021, arXiv 2104.00903; delta fixed, as in the authors' ablation.

    Attributes:
      k: number of levels.
      granularity: which weights share l, u and a.
      delta: strength of the scaling; 0 is straight-through.
    """

    delta: float = 0.1

    def init(self, w: Array) -> tuple[Params, State]:
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        bound = (3.0 if self.k > 2 else 1.0) * jnp.maximum(groups.std(axis=1), 1e-8)
        params = {"lower": -bound, "upper": bound}
        shape = 2 * jnp.round(self._place(groups, params)) / (self.k - 1) - 1
        return params | {"scale": fitted_scale(groups, shape)}, {}

    def _place(self, groups, params):
        lower, upper = (params[name].astype(jnp.float32)[:, None] for name in ("lower", "upper"))
        return (self.k - 1) * jnp.clip((groups - lower) / jnp.maximum(upper - lower, 1e-8), 0.0, 1.0)

    def _hard(self, codes, params, state):
        return jnp.abs(params["scale"].astype(jnp.float32))[:, None] * spread(codes, self.k)

    def group_codes(self, groups, params, state):
        return jnp.round(self._place(groups, params)).astype(jnp.uint8)

    def _surrogate(self, groups, params, state, hard):
        place = scaled_round(self._place(groups, params), self.delta / (self.k - 1))
        return jnp.abs(params["scale"].astype(jnp.float32))[:, None] * (2 * place / (self.k - 1) - 1)
