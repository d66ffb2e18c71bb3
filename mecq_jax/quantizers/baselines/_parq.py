"""Piecewise-affine regularised quantization, with least-squares binary levels."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._base import Diagnostics, GroupedQuantizer, Params, State
from mecq_jax.quantizers._straight_through import hard_diagnostics, nearest_codes, straight_through


def greedy_binary(w: Float[Array, " n"], bits: int) -> Float[Array, " bits"]:
    """a_i = mean|r|, r <- r - a_i sign(r), from r = w: where `least_squares_binary` starts."""
    rest, a = w, []
    for _ in range(bits):
        a.append(jnp.abs(rest).mean())
        rest = rest - a[-1] * jnp.where(rest >= 0, 1.0, -1.0)
    return jnp.stack(a)


def _signs(bits: int) -> np.ndarray:
    return np.array([[1.0 if j >> i & 1 else -1.0 for i in range(bits)] for j in range(2**bits)], np.float32)


def binary_levels(a: Float[Array, " bits"]) -> Float[Array, " k"]:
    """The sums of +-a_i, ascending."""
    return jnp.sort(jnp.dot(_signs(a.shape[0]), a, precision=jax.lax.Precision.HIGHEST))


def least_squares_binary(w: Float[Array, " n"], a: Float[Array, " bits"], sweeps: int) -> Float[Array, " bits"]:
    """`sweeps` alternations of nearest level and least squares towards min_a |w - q[code]|^2, q = {sum_i +-a_i}: LSBQ.

    Source: Pouransari, Tu and Tuzel, 2020, arXiv 2001.02786.
    """
    highest = jax.lax.Precision.HIGHEST
    signs, bits = jnp.asarray(_signs(a.shape[0])), a.shape[0]
    for _ in range(sweeps):
        levels = jnp.dot(signs, a, precision=highest)
        order = jnp.argsort(levels)
        s = signs[order][nearest_codes(w[None], levels[order][None])[0]]
        # A little of the old a keeps the system regular where levels are without weights.
        gram = jnp.dot(s.T, s, precision=highest) + 1e-4 * w.shape[0] * jnp.eye(bits, dtype=jnp.float32)
        a = jnp.linalg.solve(gram, jnp.dot(s.T, w, precision=highest) + 1e-4 * w.shape[0] * a)
    return a


@dataclasses.dataclass(frozen=True, kw_only=True)
class PARQ(GroupedQuantizer):
    """Piecewise-affine regularisation: w^ = prox(w), and the gradient of the loss at w^ moves w.

        prox(w) = clip(m + (w - m) / temperature, q_j, q_{j+1})  between levels j and j + 1,  m their middle

    The temperature is the inverse slope: 1 is the identity between the outer levels, 0 rounds to the nearest (the authors
    let it fall by a sigmoid to 0). Levels are least-squares binary ones, which follow the weights by one sweep a step.
    Source: Jin et al., ICML 2025, arXiv 2503.15748.

    Attributes:
      k: number of levels: 2, 4, 8 or 16.
      granularity: which weights share levels.
    """

    def __post_init__(self, bits: int | None) -> None:
        super().__post_init__(bits)
        if self.k & (self.k - 1):
            raise ValueError(f"k = {self.k}: least-squares binary levels are a power of two in number")

    def init(self, w: Array) -> tuple[Params, State]:
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        start = jax.vmap(lambda w: greedy_binary(w, self.k.bit_length() - 1))(groups)
        return {}, self._follow(groups, start, sweeps=20)

    def _follow(self, groups: Array, scales: Array, sweeps: int) -> State:
        sweep = jax.vmap(lambda w, a: least_squares_binary(w, a, sweeps))
        scales = sweep(jax.lax.stop_gradient(groups), scales)
        return {"scales": scales, "levels": jax.vmap(binary_levels)(scales)}

    def levels(self, params: Params, state: State) -> Float[Array, "g k"]:
        return state["levels"]

    def apply_groups(
        self, groups: Array, params: Params, state: State, temperature: Any
    ) -> tuple[Array, State, Diagnostics]:
        """prox of every weight, with the derivative of the identity; `temperature` is the inverse slope, at most 1."""
        w = groups.astype(jnp.float32)
        state = self._follow(w, state["scales"], sweeps=1)
        inverse = jnp.clip(jnp.asarray(temperature, jnp.float32), 1e-6, 1.0)

        def prox(w, q):
            middle, half = ((q[1:] + q[:-1]) / 2)[:, None], (jnp.diff(q) / 2)[:, None]
            # Over the gaps: each adds what of it the weight has climbed.
            climbed = half + jnp.clip((w[None, :] - middle) / inverse, -half, half)
            return q[0] + climbed.sum(axis=0)

        still = jax.lax.stop_gradient(w)
        soft = straight_through(jax.vmap(prox)(still, state["levels"]), w)
        return soft.astype(groups.dtype), state, hard_diagnostics(self.group_codes(still, params, state), self.k)

    def group_codes(self, groups: Float[Array, "g n"], params: Params, state: State) -> UInt8[Array, "g n"]:
        return nearest_codes(groups, state["levels"])
