"""Searching for low-bit weights: logits for every weight and level."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._base import Diagnostics, GroupedQuantizer, Params, State
from mecq_jax.quantizers._levels import initial_levels
from mecq_jax.quantizers._straight_through import hard_diagnostics


@dataclasses.dataclass(frozen=True, kw_only=True)
class SLB(GroupedQuantizer):
    """Searching for low-bit weights: k logits a weight, w^_i = sum_j softmax_j(a_ij / temperature) q_j, levels fixed.

    Keeps n x k parameters, as published; the float weights set their start, a_ij = -(w_i - q_j)^2 / var(w), and are not
    used again. The paper's second batch norm for the hard state is left out.
    Source: Yang et al., NeurIPS 2020, arXiv 2009.08695.

    Attributes:
      k: number of levels.
      granularity: which weights share levels.
      codebook: where the levels are.
    """

    codebook: str = "lloyd_max"

    def init(self, w: Array) -> tuple[Params, State]:
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        levels = initial_levels(groups, self.k, self.codebook)
        unit = jnp.maximum(groups.var(axis=1), 1e-12)[:, None, None]
        return {"logits": -jnp.square(groups[:, :, None] - levels[:, None, :]) / unit}, {"levels": levels}

    def levels(self, params: Params, state: State) -> Float[Array, "g k"]:
        return state["levels"]

    def apply_groups(
        self, groups: Array, params: Params, state: State, temperature: Any
    ) -> tuple[Array, State, Diagnostics]:
        """Expected levels; `temperature` is the softmax's. The gradient of the weights themselves is 0."""
        p = jax.nn.softmax(params["logits"].astype(jnp.float32) / temperature, axis=-1)
        soft = jnp.sum(p * state["levels"][:, None, :], axis=-1)
        codes = self.group_codes(groups, params, state)
        certain = jnp.mean((jax.lax.stop_gradient(p).max(axis=-1) > 0.99).astype(jnp.float32), axis=1)
        return soft.astype(groups.dtype), state, hard_diagnostics(codes, self.k)._replace(certain_share=certain)

    def group_codes(self, groups: Array, params: Params, state: State) -> UInt8[Array, "g n"]:
        return params["logits"].argmax(axis=-1).astype(jnp.uint8)
