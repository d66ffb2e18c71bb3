"""Differentiable k-means."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._base import Diagnostics, GroupedQuantizer, Params, State
from mecq_jax.quantizers._levels import initial_levels
from mecq_jax.quantizers._straight_through import hard_diagnostics, nearest_codes


@dataclasses.dataclass(frozen=True, kw_only=True)
class DKM(GroupedQuantizer):
    """Differentiable k-means with attention, iterated within the step from the last step's centroids.

        A = softmax_j(-|w_i - c_j| / t),   c_j <- sum_i A_ij w_i / sum_i A_ij   (`iterations` times),   w^ = A c

    The temperature is t = sqrt(temperature var(w)). The n x k attention of each iteration is kept for the backward pass,
    as in the published method. Source: Cho et al., ICLR 2022, arXiv 2108.12659.

    Attributes:
      k: number of centroids.
      granularity: which weights share them.
      iterations: of k-means in a step.
    """

    iterations: int = 3

    def init(self, w: Array) -> tuple[Params, State]:
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        return {}, {"levels": initial_levels(groups, self.k, "lloyd_max")}

    def levels(self, params: Params, state: State) -> Float[Array, "g k"]:
        return jnp.sort(state["levels"], axis=-1)

    def apply_groups(
        self, groups: Array, params: Params, state: State, temperature: Any
    ) -> tuple[Array, State, Diagnostics]:
        """Attention-weighted centroids; the new state holds the centroids."""

        def one_group(w, c):
            t = jnp.sqrt(temperature * jnp.maximum(jax.lax.stop_gradient(w.var()), 1e-12))
            for _ in range(self.iterations):
                attention = jax.nn.softmax(-jnp.abs(w[:, None] - c[None, :]) / t, axis=1)
                mass = attention.sum(axis=0)
                c = jnp.where(mass > 1e-6, jnp.sum(attention * w[:, None], axis=0) / jnp.maximum(mass, 1e-6), c)
            certain = jnp.mean((attention.max(axis=1) > 0.99).astype(jnp.float32))
            return jnp.sum(attention * c[None, :], axis=1), jax.lax.stop_gradient(c), jax.lax.stop_gradient(certain)

        w = groups.astype(jnp.float32)
        soft, levels, certain = jax.vmap(one_group)(w, state["levels"])
        state = {"levels": levels}
        info = hard_diagnostics(self.group_codes(jax.lax.stop_gradient(w), params, state), self.k)
        return soft.astype(groups.dtype), state, info._replace(certain_share=certain)

    def group_codes(self, groups: Float[Array, "g n"], params: Params, state: State) -> UInt8[Array, "g n"]:
        return nearest_codes(groups, self.levels(params, state))
