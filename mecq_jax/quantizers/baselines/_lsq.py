"""Learned step size quantization."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._straight_through import straight_through
from mecq_jax.quantizers._types import Codes, Groups, Params, State
from mecq_jax.quantizers.baselines._uniform import Uniform


@dataclasses.dataclass(frozen=True, kw_only=True)
class LSQ(Uniform):
    """Learned step size: rounding to multiples of a step s that is learnt for each group, straight-through.

        w^ = s round(clip(w / s, -Qn, Qp)),   Qn = k // 2,   Qp = k - 1 - Qn

    k = 4 has -2, -1, 0 and 1 times s; k = 2 uses the two levels -s/2, s/2. The step's gradient is scaled by
    1 / sqrt(n max(Qp, 1)) and s starts at 2 mean|w| / sqrt(max(Qp, 1)).

    Attributes:
      k: number of levels, 2 to 16; 2**bits if it is not given, 4 if neither is.
      bits: width of a code, 1 to 4; may be given in the place of k.
      granularity: which weights share a step.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers.baselines import LSQ
      >>> w, quantizer = jnp.array([[-2.0, -0.75], [0.5, 0.75]], jnp.float32), LSQ(bits=2)
      >>> params, state = quantizer.init(w)  # s = 2 mean|w| = 2
      >>> hard, state, diagnostics = quantizer.apply(w, params, state)
      >>> quantizer.levels(params, state), quantizer.codes(w, params, state)
      (Array([[-4., -2.,  0.,  2.]], dtype=float32), Array([[1, 2, 2, 2]], dtype=uint8))

    Source: Esser et al., ICLR 2020, arXiv 1902.08153.
    """

    @property
    def _offset(self) -> float:
        """The lowest level in steps: level j is s (j + offset)."""
        return -0.5 if self.k == 2 else -float(self.k // 2)

    @property
    def _highest(self) -> int:
        """Qp, at least 1."""
        return max(self.k - 1 - self.k // 2, 1)

    def init(self, w: Array) -> tuple[Params, State]:
        """Parameters `step`, [g]; no state."""
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        step = 2 * jnp.abs(groups).mean(axis=1) / jnp.sqrt(jnp.float32(self._highest))
        return {"step": jnp.maximum(step, 1e-8)}, {}

    def _step(self, params: Params) -> Float[Array, "g 1"]:
        return jnp.maximum(jnp.abs(params["step"].astype(jnp.float32)), 1e-8)[:, None]

    def _hard(self, codes: Integer[Array, "#g n"], params: Params, state: State) -> Groups:
        return self._step(params) * (codes.astype(jnp.float32) + self._offset)

    def _place(self, groups: Groups, step: Float[Array, "g 1"]) -> Groups:
        """The weights in steps above the lowest level."""
        return jnp.clip(groups / step - self._offset, 0.0, self.k - 1.0)

    def group_codes(self, groups: Groups, params: Params, state: State) -> Codes:
        """The nearest level."""
        return jnp.round(self._place(groups, self._step(params))).astype(jnp.uint8)

    def _surrogate(self, groups: Groups, params: Params, state: State, hard: Groups) -> Groups:
        scale = 1 / jnp.sqrt(jnp.float32(groups.shape[1] * self._highest))
        step = self._step(params)
        step = jax.lax.stop_gradient(step) + (step - jax.lax.stop_gradient(step)) * scale
        place = self._place(groups, step)
        return step * (straight_through(jnp.round(place), place) + self._offset)
