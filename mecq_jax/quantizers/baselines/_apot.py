"""Additive powers of two: levels that are sums of powers of two."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._straight_through import StraightThrough, nearest_codes
from mecq_jax.quantizers._types import Codes, Groups, Levels, Params, State

# From k to the sets whose sums are the magnitudes.
_SETS = {
    2: ([1.0],),
    4: ([0.0, 1.0],),
    8: ([0.0, 2**-1, 2**-2, 2**-3],),
    16: ([0.0, 2**-1, 2**-2, 2**-4], [0.0, 2**-3]),
}


def additive_powers_of_two(k: int) -> Float[np.ndarray, " magnitudes"]:
    """The magnitudes of APoT's levels: sums of one power of two, or 0, from each of its sets, divided by the largest.

    k = 4 is ternary, as the authors' code has it; k = 8 is {0, 1/4, 1/2, 1}; k = 16 has the 8 magnitudes of 3 bits.

    Args:
      k: number of levels: 2, 4, 8 or 16.

    Returns:
      Magnitudes, at least 0 and at most 1, float64, ascending.

    Raises:
      ValueError: if k is another number.

    Example:
      >>> from mecq_jax.quantizers.baselines import additive_powers_of_two
      >>> additive_powers_of_two(8).tolist()
      [0.0, 0.25, 0.5, 1.0]
    """
    if k not in _SETS:
        raise ValueError(f"k = {k}: additive powers of two are defined for {sorted(_SETS)} levels; give one of these")
    sums = np.unique([sum(addends) for addends in itertools.product(*_SETS[k])])
    return np.asarray(sums / sums[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class APoT(StraightThrough):
    """Additive powers of two: rounding of standardised weights to sums of powers of two, with a learnt clip alpha.

        w^ = a alpha Q(clip(w~ / alpha, -1, 1)),   w~ = (w - mean) / std

    Straight-through: dL/dw = a dL/dw^ / std, for clipped weights too, none through mean and std, as in the authors'
    code. Q rounds to +- `additive_powers_of_two`; where 0 is one of them a level is to spare, and the topmost
    is there twice. alpha starts at 3 (k = 2: 1). Published with a = 1 and batch norm behind; here a is the std at the
    start.

    Attributes:
      k: number of levels: 2, 4, 8 or 16; 2**bits if it is not given, 4 if neither is.
      bits: width of a code, 1 to 4; may be given in the place of k.
      granularity: which weights share alpha, mean and std.

    Raises:
      ValueError: if k is not 2, 4, 8 or 16.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers.baselines import APoT
      >>> w, quantizer = jnp.array([[-1.0, -0.4], [0.4, 1.0]], jnp.float32), APoT(bits=3)
      >>> params, state = quantizer.init(w)
      >>> hard, state, diagnostics = quantizer.apply(w, params, state)
      >>> quantizer.codes(w, params, state)
      Array([[1, 2, 4, 5]], dtype=uint8)

    Source: Li, Dong and Wang, ICLR 2020, arXiv 1909.13144.
    """

    def __post_init__(self) -> None:
        """Check that there are levels for k."""
        super().__post_init__()
        additive_powers_of_two(self.k)

    @property
    def _shape(self) -> Float[Array, " k"]:
        """The levels from -1 to 1."""
        magnitudes = additive_powers_of_two(self.k)
        shape = np.unique(np.concatenate([-magnitudes, magnitudes]))
        return jnp.asarray(np.append(shape, [shape[-1]] * (self.k - len(shape))), jnp.float32)

    def init(self, w: Array) -> tuple[Params, State]:
        """Parameters `clip` (alpha), [g]; state `scale` (a), [g]."""
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        scale = jnp.maximum(groups.std(axis=1), 1e-8)
        clip = jnp.full_like(scale, 3.0 if self.k > 2 else 1.0)
        return {"clip": clip}, {"scale": scale}

    def _clip(self, params: Params) -> Float[Array, "g 1"]:
        """alpha, away from 0."""
        return jnp.maximum(jnp.abs(params["clip"].astype(jnp.float32)), 1e-3)[:, None]

    def _standard(self, groups: Groups) -> Groups:
        """w~, with no gradient through mean and std."""
        still = jax.lax.stop_gradient(groups)
        spread = jnp.maximum(still.std(axis=1, keepdims=True), 1e-8)
        return (groups - still.mean(axis=1, keepdims=True)) / spread

    def levels(self, params: Params, state: State) -> Levels:
        """The levels from -1 to 1, times a alpha."""
        return state["scale"][:, None] * self._clip(params) * self._shape[None]

    def group_codes(self, groups: Groups, params: Params, state: State) -> Codes:
        """The level nearest to a w~."""
        return nearest_codes(state["scale"][:, None] * self._standard(groups), self.levels(params, state))

    def _surrogate(self, groups: Groups, params: Params, state: State, hard: Groups) -> Groups:
        clip, scale, standard = self._clip(params), state["scale"][:, None], self._standard(groups)
        x = jax.lax.stop_gradient(standard / clip)
        d_clip = jnp.where(jnp.abs(x) <= 1, jax.lax.stop_gradient(hard / (scale * clip)) - x, jnp.sign(x))
        return scale * (standard + clip * d_clip)
