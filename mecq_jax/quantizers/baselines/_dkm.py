"""Differentiable k-means."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._base import Diagnostics, GroupedQuantizer
from mecq_jax.quantizers._levels import initial_levels
from mecq_jax.quantizers._straight_through import hard_diagnostics, nearest_codes
from mecq_jax.quantizers._types import Codes, Groups, Levels, Params, State, Temperature


@dataclasses.dataclass(frozen=True, kw_only=True)
class DKM(GroupedQuantizer):
    """Differentiable k-means with attention, iterated within the step from the last step's centroids.

        A = softmax_j(-|w_i - c_j| / t),   c_j <- sum_i A_ij w_i / sum_i A_ij   (`iterations` times),   w^ = A c
        t = sqrt(temperature var(w))

    The n x k attention of each iteration is kept for the backward pass, as in the published method.

    Attributes:
      k: number of centroids, 2 to 16; 2**bits if it is not given, 4 if neither is.
      bits: width of a code, 1 to 4; may be given in the place of k.
      granularity: which weights share centroids.
      iterations: of k-means in a step, at least 1.

    Raises:
      ValueError: if iterations is below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers.baselines import DKM
      >>> w, quantizer = jnp.array([[-1.0, -0.4], [0.4, 1.0]], jnp.float32), DKM(bits=1)
      >>> params, state = quantizer.init(w)
      >>> soft, state, diagnostics = quantizer.apply(w, params, state, temperature=0.1)
      >>> quantizer.codes(w, params, state)
      Array([[0, 0, 1, 1]], dtype=uint8)

    Source: Cho et al., ICLR 2022, arXiv 2108.12659.
    """

    iterations: int = 3

    def __post_init__(self) -> None:
        """Check that there is an attention to return."""
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError(f"iterations = {self.iterations}: k-means needs at least 1 in a step")

    def init(self, w: Array) -> tuple[Params, State]:
        """No parameters; state `levels`, the centroids, [g, k]."""
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        return {}, {"levels": initial_levels(groups, self.k, "lloyd_max")}

    def levels(self, params: Params, state: State) -> Levels:
        """The centroids in ascending order."""
        return jnp.sort(state["levels"], axis=-1)

    def apply_groups(
        self, groups: Groups, params: Params, state: State, temperature: Temperature | None
    ) -> tuple[Groups, State, Diagnostics]:
        """Attention-weighted centroids; the new state holds the centroids."""
        temperature = self._needed(temperature)

        def one_group(
            w: Float[Array, " n"], c: Float[Array, " k"]
        ) -> tuple[Float[Array, " n"], Float[Array, " k"], Float[Array, ""]]:
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
        diagnostics = hard_diagnostics(self.group_codes(jax.lax.stop_gradient(w), params, state), self.k)
        return soft.astype(groups.dtype), state, diagnostics._replace(certain_share=certain)

    def group_codes(self, groups: Groups, params: Params, state: State) -> Codes:
        """The nearest centroid."""
        return nearest_codes(groups, self.levels(params, state))
