"""Rounding at the largest magnitude with the straight-through estimator."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._types import Codes, Groups, Params, State
from mecq_jax.quantizers.baselines._uniform import Uniform


@dataclasses.dataclass(frozen=True, kw_only=True)
class STE(Uniform):
    """Uniform rounding at the largest magnitude: the levels are the middles of k equal parts of [-a, a].

        q_j = a (2 j + 1 - k) / k,   a = max|w|,   j = 0 to k - 1

    The bound a follows the weights and carries no gradient; the weights' gradient is straight-through.

    Attributes:
      k: number of levels, 2 to 16; 2**bits if it is not given, 4 if neither is.
      bits: width of a code, 1 to 4; may be given in the place of k.
      granularity: which weights share a.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers.baselines import STE
      >>> w, quantizer = jnp.array([[-1.0, -0.4], [0.4, 1.0]], jnp.float32), STE(bits=2)
      >>> params, state = quantizer.init(w)
      >>> hard, state, diagnostics = quantizer.apply(w, params, state)
      >>> quantizer.codes(w, params, state), quantizer.levels(params, state)
      (Array([[0, 1, 2, 3]], dtype=uint8), Array([[-0.75, -0.25,  0.25,  0.75]], dtype=float32))
    """

    def init(self, w: Array) -> tuple[Params, State]:
        """No parameters; the state is the bound a, [g]."""
        return {}, self._follow(to_groups(w, self.granularity).astype(jnp.float32), {})

    def _follow(self, groups: Groups, state: State) -> State:
        return {"bound": jnp.maximum(jnp.abs(jax.lax.stop_gradient(groups)).max(axis=1), 1e-30)}

    def _hard(self, codes: Integer[Array, "#g n"], params: Params, state: State) -> Groups:
        return 2 / self.k * state["bound"][:, None] * (codes.astype(jnp.float32) - (self.k - 1) / 2)

    def group_codes(self, groups: Groups, params: Params, state: State) -> Codes:
        """The nearest level."""
        place = groups / (2 / self.k * state["bound"][:, None]) + (self.k - 1) / 2
        return jnp.clip(jnp.round(place), 0.0, self.k - 1.0).astype(jnp.uint8)

    def _surrogate(self, groups: Groups, params: Params, state: State, hard: Groups) -> Groups:
        return groups
