"""Equal-mass codes with learnt levels, straight-through."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._base import Params, State
from mecq_jax.quantizers._levels import initial_levels
from mecq_jax.quantizers._straight_through import Levels, StraightThrough


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balanced(StraightThrough):
    """Equal-mass codes, straight-through: weight number r of n (by size) has code floor(k r / n), levels are learnt.

    dL/dw = dL/dw^,  dL/dq_j = sum of dL/dw^ over the weights of code j. The limit of the method's mirror form as
    epsilon falls to 0, without the way there. The idea of equal masses is that of N2UQ's entropy-preserving
    weights (Liu et al., CVPR 2022, arXiv 2111.14826), which rescale for a uniform quantizer instead.

    Attributes:
      k: number of levels.
      granularity: which weights share a codebook.
    """

    def init(self, w: Array) -> tuple[Params, State]:
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        return {"levels": initial_levels(groups, self.k, "quantile")}, {}

    def levels(self, params: Params, state: State) -> Levels:
        return jnp.sort(params["levels"].astype(jnp.float32), axis=-1)

    def group_codes(self, groups, params, state):
        n = groups.shape[1]
        # The border of two codes is the middle between its two weights, so that equal weights have equal codes.
        first = np.minimum(-(-np.arange(1, self.k) * n // self.k), n - 1)
        ordered = jnp.sort(groups, axis=1)
        borders = (ordered[:, first] + ordered[:, np.maximum(first - 1, 0)]) / 2
        search = partial(jnp.searchsorted, side="left", method="compare_all")
        return jax.vmap(search)(borders, groups).astype(jnp.uint8)

    def _surrogate(self, groups, params, state, hard):
        return groups + hard
