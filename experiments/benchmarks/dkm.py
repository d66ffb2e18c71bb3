"""DKM, differentiable k-means with attention (Cho et al., ICLR 2022, arXiv 2108.12659), as published, for comparison.

    A = softmax_j(-|w_i - c_j| / tau),   c_j <- sum_i A_ij w_i / sum_i A_ij   (three times),   w^ = A c

The n x k attention of each iteration is kept for the backward pass, as it is in the published method.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mecq_jax import MEC
from mecq_jax.quantizer import Info


@dataclasses.dataclass(frozen=True, kw_only=True)
class DKM(MEC):
    """Soft weights of three unrolled iterations; epsilon stands for the square of tau, relative to var(w)."""

    iterations: int = 3

    def apply_groups(self, groups, params, state, epsilon):
        def one_group(w, c):
            tau = jnp.sqrt(epsilon * w.var())
            for _ in range(self.iterations):
                attention = jax.nn.softmax(-jnp.abs(w[:, None] - c[None, :]) / tau, axis=1)
                c = attention.T @ w / jnp.maximum(attention.sum(axis=0), 1e-12)
            return attention @ c

        soft = jax.vmap(one_group)(groups, self.levels(params, state))
        zero = jnp.zeros(groups.shape[0], jnp.float32)
        return soft, state, Info(zero, zero, zero + 1, zero, zero)
