"""Equal-mass codes with learnt levels, straight-through."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._levels import initial_levels
from mecq_jax.quantizers._straight_through import StraightThrough
from mecq_jax.quantizers._types import Codes, Groups, Levels, Params, State


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balanced(StraightThrough):
    """Equal-mass codes, straight-through: weight number r of n by size (from 0) has code floor(k r / n).

        dL/dw = dL/dw^,   dL/dq_j = sum of dL/dw^ over the weights of code j

    The levels q are learnt. It is the limit of `mecq_jax.quantizers.MEC` with the mirror gradient as the temperature
    falls to 0, without the way there. The idea of equal masses is that of N2UQ's entropy-preserving weights, which
    rescale for a uniform quantizer instead.

    Attributes:
      k: number of levels, 2 to 16; 2**bits if it is not given, 4 if neither is.
      bits: width of a code, 1 to 4; may be given in the place of k.
      granularity: which weights share levels.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers.baselines import Balanced
      >>> w, quantizer = jnp.array([[0.0, 0.1], [0.2, 9.0]], jnp.float32), Balanced(bits=1)
      >>> params, state = quantizer.init(w)
      >>> hard, state, diagnostics = quantizer.apply(w, params, state)
      >>> quantizer.codes(w, params, state)
      Array([[0, 0, 1, 1]], dtype=uint8)

    Source: Liu et al., CVPR 2022, arXiv 2111.14826 (N2UQ).
    """

    def init(self, w: Array) -> tuple[Params, State]:
        """Parameters `levels`, [g, k], the means of the equal-mass cells; no state."""
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        return {"levels": initial_levels(groups, self.k, "quantile")}, {}

    def levels(self, params: Params, state: State) -> Levels:
        """The levels in ascending order, whatever the optimizer did to them."""
        return jnp.sort(params["levels"].astype(jnp.float32), axis=-1)

    def group_codes(self, groups: Groups, params: Params, state: State) -> Codes:
        """The code of each weight by its rank."""
        n = groups.shape[1]
        # The border of two codes is the middle between its two weights, so that equal weights have equal codes.
        first = np.minimum(-(-np.arange(1, self.k) * n // self.k), n - 1)
        ordered = jnp.sort(groups, axis=1)
        borders = (ordered[:, first] + ordered[:, np.maximum(first - 1, 0)]) / 2
        search = partial(jnp.searchsorted, side="left", method="compare_all")
        return jax.vmap(search)(borders, groups).astype(jnp.uint8)

    def _surrogate(self, groups: Groups, params: Params, state: State, hard: Groups) -> Groups:
        return groups + hard
