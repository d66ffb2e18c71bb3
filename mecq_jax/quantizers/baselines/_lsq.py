"""Learned step size quantization."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._base import Params, State
from mecq_jax.quantizers._straight_through import straight_through
from mecq_jax.quantizers.baselines._uniform import Uniform


@dataclasses.dataclass(frozen=True, kw_only=True)
class LSQ(Uniform):
    """Learned step size: w^ = s round(clip(w / s, -Qn, Qp)), straight-through, step s learnt per group.

    With k levels Qn = k // 2 and Qp = k - 1 - Qn (k = 4: -2, -1, 0, 1); k = 2 uses the two levels -s/2, s/2. The
    step's gradient is scaled by 1 / sqrt(n max(Qp, 1)) and s starts at 2 mean|w| / sqrt(max(Qp, 1)).
    Source: Esser et al., ICLR 2020, arXiv 1902.08153.

    Attributes:
      k: number of levels.
      granularity: which weights share a step.
    """

    @property
    def _offset(self) -> float:
        """The lowest level in steps: level j is s (j + offset)."""
        return -0.5 if self.k == 2 else -float(self.k // 2)

    @property
    def _highest(self) -> int:
        return max(self.k - 1 - self.k // 2, 1)

    def init(self, w: Array) -> tuple[Params, State]:
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        step = 2 * jnp.abs(groups).mean(axis=1) / jnp.sqrt(jnp.float32(self._highest))
        return {"step": jnp.maximum(step, 1e-8)}, {}

    def _step(self, params: Params) -> Float[Array, "g 1"]:
        return jnp.maximum(jnp.abs(params["step"].astype(jnp.float32)), 1e-8)[:, None]

    def _hard(self, codes, params, state):
        return self._step(params) * (codes.astype(jnp.float32) + self._offset)

    def _place(self, groups, step):
        return jnp.clip(groups / step - self._offset, 0.0, self.k - 1.0)

    def group_codes(self, groups, params, state):
        return jnp.round(self._place(groups, self._step(params))).astype(jnp.uint8)

    def _surrogate(self, groups, params, state, hard):
        scale = 1 / jnp.sqrt(jnp.float32(groups.shape[1] * self._highest))
        step = self._step(params)
        step = jax.lax.stop_gradient(step) + (step - jax.lax.stop_gradient(step)) * scale
        place = self._place(groups, step)
        return step * (straight_through(jnp.round(place), place) + self._offset)
