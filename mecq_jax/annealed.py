"""Rivals that harden by a falling temperature, the `epsilon` of `apply`: what it means is said by each."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mecq_jax.codebook import initial_levels
from mecq_jax.grouping import to_groups
from mecq_jax.mec import MEC
from mecq_jax.quantizer import Info, OnArrays, Params, State
from mecq_jax.rounding import nearest, rounded_info, through


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
        s = signs[order][nearest(w[None], levels[order][None])[0]]
        # A little of the old a keeps the system regular where levels are without weights.
        gram = jnp.dot(s.T, s, precision=highest) + 1e-4 * w.shape[0] * jnp.eye(bits, dtype=jnp.float32)
        a = jnp.linalg.solve(gram, jnp.dot(s.T, w, precision=highest) + 1e-4 * w.shape[0] * a)
    return a


@dataclasses.dataclass(frozen=True, kw_only=True)
class PARQ(OnArrays):
    """Piecewise-affine regularisation: w^ = prox(w), and the gradient of the loss at w^ moves w.

        prox(w) = clip(m + (w - m) / epsilon, q_j, q_{j+1})  between levels j and j + 1,  m their middle

    epsilon is the inverse slope: 1 is the identity between the outer levels, 0 rounds to the nearest (the authors let
    it fall by a sigmoid to 0). Levels are least-squares binary ones, which follow the weights by one sweep a step.
    Source: Jin et al., ICML 2025, arXiv 2503.15748.

    Attributes:
      k: number of levels: 2, 4, 8 or 16.
      granularity: which weights share levels.
    """

    def __post_init__(self):
        super().__post_init__()
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

    def apply_groups(self, groups: Array, params: Params, state: State, epsilon: Any) -> tuple[Array, State, Info]:
        """prox of every weight, with the derivative of the identity; `epsilon` is the inverse slope, at most 1."""
        w = groups.astype(jnp.float32)
        state = self._follow(w, state["scales"], sweeps=1)
        inverse = jnp.clip(jnp.asarray(epsilon, jnp.float32), 1e-6, 1.0)

        def prox(w, q):
            middle, half = ((q[1:] + q[:-1]) / 2)[:, None], (jnp.diff(q) / 2)[:, None]
            # Over the gaps: each adds what of it the weight has climbed.
            climbed = half + jnp.clip((w[None, :] - middle) / inverse, -half, half)
            return q[0] + climbed.sum(axis=0)

        still = jax.lax.stop_gradient(w)
        soft = through(jax.vmap(prox)(still, state["levels"]), w)
        return soft.astype(groups.dtype), state, rounded_info(self.group_codes(still, params, state), self.k)

    def group_codes(self, groups: Float[Array, "g n"], params: Params, state: State) -> UInt8[Array, "g n"]:
        return nearest(groups, state["levels"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SLB(OnArrays):
    """Searching for low-bit weights: k logits a weight, w^_i = sum_j softmax_j(a_ij / epsilon) q_j, levels fixed.

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

    def apply_groups(self, groups: Array, params: Params, state: State, epsilon: Any) -> tuple[Array, State, Info]:
        """Expected levels; `epsilon` is the temperature. The gradient of the weights themselves is 0."""
        p = jax.nn.softmax(params["logits"].astype(jnp.float32) / epsilon, axis=-1)
        soft = jnp.sum(p * state["levels"][:, None, :], axis=-1)
        codes = self.group_codes(groups, params, state)
        certain = jnp.mean((jax.lax.stop_gradient(p).max(axis=-1) > 0.99).astype(jnp.float32), axis=1)
        return soft.astype(groups.dtype), state, rounded_info(codes, self.k)._replace(certain=certain)

    def group_codes(self, groups: Array, params: Params, state: State) -> UInt8[Array, "g n"]:
        return params["logits"].argmax(axis=-1).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DKM(OnArrays):
    """Differentiable k-means with attention, iterated within the step from the last step's centroids.

        A = softmax_j(-|w_i - c_j| / t),   c_j <- sum_i A_ij w_i / sum_i A_ij   (`iterations` times),   w^ = A c

    The temperature is t = sqrt(epsilon var(w)). The n x k attention of each iteration is kept for the backward pass, as
    in the published method. Source: Cho et al., ICLR 2022, arXiv 2108.12659.

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

    def apply_groups(self, groups: Array, params: Params, state: State, epsilon: Any) -> tuple[Array, State, Info]:
        """Attention-weighted centroids; the new state holds the centroids."""

        def one_group(w, c):
            t = jnp.sqrt(epsilon * jnp.maximum(jax.lax.stop_gradient(w.var()), 1e-12))
            for _ in range(self.iterations):
                attention = jax.nn.softmax(-jnp.abs(w[:, None] - c[None, :]) / t, axis=1)
                mass = attention.sum(axis=0)
                c = jnp.where(mass > 1e-6, jnp.sum(attention * w[:, None], axis=0) / jnp.maximum(mass, 1e-6), c)
            certain = jnp.mean((attention.max(axis=1) > 0.99).astype(jnp.float32))
            return jnp.sum(attention * c[None, :], axis=1), jax.lax.stop_gradient(c), jax.lax.stop_gradient(certain)

        w = groups.astype(jnp.float32)
        soft, levels, certain = jax.vmap(one_group)(w, state["levels"])
        state = {"levels": levels}
        info = rounded_info(self.group_codes(jax.lax.stop_gradient(w), params, state), self.k)
        return soft.astype(groups.dtype), state, info._replace(certain=certain)

    def group_codes(self, groups: Float[Array, "g n"], params: Params, state: State) -> UInt8[Array, "g n"]:
        return nearest(groups, self.levels(params, state))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HardForward(MEC):
    """An ablation of the method: forward through the most probable levels, backward through the soft assignment."""

    def apply_groups(self, groups: Array, params: Params, state: State, epsilon: Any) -> tuple[Array, State, Info]:
        soft, state, info = super().apply_groups(groups, params, state, epsilon)
        codes = self.group_codes(groups, params, state)
        hard = jnp.take_along_axis(self.levels(params, state), codes.astype(jnp.int32), axis=1)
        return through(hard.astype(groups.dtype), soft), state, info
