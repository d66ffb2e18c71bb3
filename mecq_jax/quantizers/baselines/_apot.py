"""Additive powers of two: levels that are sums of powers of two."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._base import Params, State
from mecq_jax.quantizers._straight_through import Levels, StraightThrough, nearest_codes


def additive_powers_of_two(k: int) -> np.ndarray:
    """The magnitudes of APoT's levels, largest 1: sums of one power of two from each of its sets.

    k = 4 is ternary, as the authors' code has it; k = 8 is {0, 1/4, 1/2, 1}; k = 16 has the 8 magnitudes of 3 bits.
    """
    sets = {
        2: ([1.0],),
        4: ([0.0, 1.0],),
        8: ([0.0, 2**-1, 2**-2, 2**-3],),
        16: ([0.0, 2**-1, 2**-2, 2**-4], [0.0, 2**-3]),
    }
    if k not in sets:
        raise ValueError(f"k = {k}: additive powers of two are defined for {sorted(sets)} levels")
    sums = np.unique(np.add.outer(sets[k][0], sets[k][1]) if len(sets[k]) > 1 else sets[k][0])
    return sums / sums.max()


@dataclasses.dataclass(frozen=True, kw_only=True)
class APoT(StraightThrough):
    """Additive powers of two: w^ = a alpha Q(clip(w~ / alpha, -1, 1)),  w~ = (w - mean) / std, alpha learnt.

    Straight-through: dL/dw = a dL/dw^ / std, for clipped weights too, none through mean and std, as in the authors'
    code. Q rounds to +- `additive_powers_of_two`; where 0 is one of them a level is to spare, and the topmost
    is there twice. alpha starts at 3 (k = 2: 1). Published with a = 1 and batch norm behind; here it is the std at the
    start.
    Source: Li, Dong and Wang, ICLR 2020, arXiv 1909.13144.

    Attributes:
      k: number of levels: 2, 4, 8 or 16.
      granularity: which weights share alpha.
    """

    def __post_init__(self, bits: int | None) -> None:
        super().__post_init__(bits)
        additive_powers_of_two(self.k)

    @property
    def _shape(self) -> Float[Array, " k"]:
        magnitudes = additive_powers_of_two(self.k)
        shape = np.unique(np.concatenate([-magnitudes, magnitudes]))
        return jnp.asarray(np.append(shape, [shape[-1]] * (self.k - len(shape))), jnp.float32)

    def init(self, w: Array) -> tuple[Params, State]:
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        scale = jnp.maximum(groups.std(axis=1), 1e-8)
        clip = jnp.full_like(scale, 3.0 if self.k > 2 else 1.0)
        return {"clip": clip}, {"scale": scale}

    def _clip(self, params):
        return jnp.maximum(jnp.abs(params["clip"].astype(jnp.float32)), 1e-3)[:, None]

    def _standard(self, groups):
        still = jax.lax.stop_gradient(groups)
        spread = jnp.maximum(still.std(axis=1, keepdims=True), 1e-8)
        return (groups - still.mean(axis=1, keepdims=True)) / spread

    def levels(self, params: Params, state: State) -> Levels:
        return state["scale"][:, None] * self._clip(params) * self._shape[None]

    def group_codes(self, groups, params, state):
        return nearest_codes(state["scale"][:, None] * self._standard(groups), self.levels(params, state))

    def _surrogate(self, groups, params, state, hard):
        clip, scale, standard = self._clip(params), state["scale"][:, None], self._standard(groups)
        x = jax.lax.stop_gradient(standard / clip)
        d_clip = jnp.where(jnp.abs(x) <= 1, jax.lax.stop_gradient(hard / (scale * clip)) - x, jnp.sign(x))
        return scale * (standard + clip * d_clip)
