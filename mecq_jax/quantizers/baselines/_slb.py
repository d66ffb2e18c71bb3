"""Searching for low-bit weights: logits for every weight and level."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._base import Diagnostics, GroupedQuantizer
from mecq_jax.quantizers._levels import Codebook, initial_levels
from mecq_jax.quantizers._straight_through import hard_diagnostics
from mecq_jax.quantizers._types import Codes, Groups, Levels, Params, State, Temperature


@dataclasses.dataclass(frozen=True, kw_only=True)
class SLB(GroupedQuantizer):
    """Searching for low-bit weights: k trained logits a_ij for each weight, between fixed levels q.

        w^_i = sum_j softmax_j(a_ij / temperature) q_j,   a_ij = -(w_i - q_j)^2 / var(w) at the start

    Keeps n x k parameters, as published; the float weights set their start and are not used again. The paper's second
    batch norm for the hard state is left out.

    Attributes:
      k: number of levels, 2 to 16; 2**bits if it is not given, 4 if neither is.
      bits: width of a code, 1 to 4; may be given in the place of k.
      granularity: which weights share levels.
      codebook: where the levels are: 'lloyd_max', 'quantile', 'uniform' or a function (w, k) -> levels.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers.baselines import SLB
      >>> w, quantizer = jnp.array([[-1.0, -0.4], [0.4, 1.0]], jnp.float32), SLB(bits=1)
      >>> params, state = quantizer.init(w)
      >>> soft, state, diagnostics = quantizer.apply(w, params, state, temperature=0.1)
      >>> quantizer.codes(w, params, state), params["logits"].shape
      (Array([[0, 0, 1, 1]], dtype=uint8), (1, 4, 2))

    Source: Yang et al., NeurIPS 2020, arXiv 2009.08695.
    """

    codebook: str | Codebook = "lloyd_max"

    def init(self, w: Array) -> tuple[Params, State]:
        """Parameters `logits`, [g, n, k]; state `levels`, [g, k]."""
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        levels = initial_levels(groups, self.k, self.codebook)
        unit = jnp.maximum(groups.var(axis=1), 1e-12)[:, None, None]
        return {"logits": -jnp.square(groups[:, :, None] - levels[:, None, :]) / unit}, {"levels": levels}

    def levels(self, params: Params, state: State) -> Levels:
        """The fixed levels."""
        return state["levels"]

    def apply_groups(
        self, groups: Groups, params: Params, state: State, temperature: Temperature | None
    ) -> tuple[Groups, State, Diagnostics]:
        """Expected levels; `temperature` is the softmax's. The gradient of the weights themselves is 0."""
        p = jax.nn.softmax(params["logits"].astype(jnp.float32) / self._needed(temperature), axis=-1)
        soft = jnp.sum(p * state["levels"][:, None, :], axis=-1)
        codes = self.group_codes(groups, params, state)
        certain = jnp.mean((jax.lax.stop_gradient(p).max(axis=-1) > 0.99).astype(jnp.float32), axis=1)
        return soft.astype(groups.dtype), state, hard_diagnostics(codes, self.k)._replace(certain_share=certain)

    def group_codes(self, groups: Groups, params: Params, state: State) -> Codes:
        """The level of the largest logit."""
        return params["logits"].argmax(axis=-1).astype(jnp.uint8)
