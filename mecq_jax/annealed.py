"""Rivals that harden by a falling temperature, the `epsilon` of `apply`: what it means is said by each."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mecq_jax.codebook import initial_levels
from mecq_jax.grouping import Granularity, PerTensor, to_groups
from mecq_jax.mec import MEC
from mecq_jax.quantizer import Info, OnArrays, Params, State
from mecq_jax.rounding import nearest, rounded_info


def least_squares_binary(w: Float[Array, " n"], bits: int, sweeps: int = 3) -> Float[Array, " k"]:
    """Ascending levels q of min |w - q[code]|^2 over q = {sum_i +-a_i}, i = 1 .. bits: LSBQ.

    Greedy, a_i = mean|r|, r <- r - a_i sign(r), as published for more than two bits; then `sweeps` alternations of
    nearest level and least squares in a, which reach the optimum of one and two bits.
    Source: Pouransari, Tu and Tuzel, 2020, arXiv 2001.02786.
    """
    signs = np.array([[1.0 if j >> i & 1 else -1.0 for i in range(bits)] for j in range(2**bits)], np.float32)
    rest, greedy = w, []
    for _ in range(bits):
        greedy.append(jnp.abs(rest).mean())
        rest = rest - greedy[-1] * jnp.where(rest >= 0, 1.0, -1.0)
    a = jnp.stack(greedy)
    highest = jax.lax.Precision.HIGHEST
    for _ in range(sweeps if bits > 1 else 0):
        levels = jnp.dot(signs, a, precision=highest)
        order = jnp.argsort(levels)
        codes = nearest(w[None], levels[order][None])[0]
        s = jnp.asarray(signs)[order][codes]
        gram = jnp.dot(s.T, s, precision=highest) + 1e-4 * w.shape[0] * jnp.eye(bits, dtype=jnp.float32)
        a = jnp.linalg.solve(gram, jnp.dot(s.T, w, precision=highest) + 1e-4 * w.shape[0] * a)
    return jnp.sort(jnp.dot(signs, a, precision=highest))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PARQ(OnArrays):
    """Piecewise-affine regularisation: w^ = prox(w), and the gradient of the loss at w^ moves w.

        prox(w) = clip(m + (w - m) / epsilon, q_j, q_{j+1})  between levels j and j + 1,  m their middle

    epsilon is the inverse slope: 1 is the identity between the outer levels, 0 rounds to the nearest. Levels are
    least-squares binary ones of the weights, at every step. Source: Jin et al., ICML 2025, arXiv 2503.15748.

    Attributes:
      k: number of levels: 2, 4, 8 or 16.
      granularity: which weights share levels.
    """

    k: int = 4
    granularity: Granularity = PerTensor()  # noqa: RUF009

    def __post_init__(self):
        super().__post_init__()
        if self.k & (self.k - 1):
            raise ValueError(f"k = {self.k}: least-squares binary levels are a power of two in number")

    def init(self, w: Array) -> tuple[Params, State]:
        return {}, self._follow(to_groups(w, self.granularity))

    def _follow(self, groups: Array) -> State:
        bits = self.k.bit_length() - 1
        groups = jax.lax.stop_gradient(groups).astype(jnp.float32)
        return {"levels": jax.vmap(lambda w: least_squares_binary(w, bits))(groups)}

    def levels(self, params: Params, state: State) -> Float[Array, "g k"]:
        return state["levels"]

    def apply_groups(self, groups: Array, params: Params, state: State, epsilon: Any) -> tuple[Array, State, Info]:
        """prox of every weight, with the derivative of the identity; `epsilon` is the inverse slope, at most 1."""
        w = groups.astype(jnp.float32)
        state = self._follow(w)
        inverse = jnp.clip(jnp.asarray(epsilon, jnp.float32), 1e-6, 1.0)

        def prox(w, q):
            middle, half = ((q[1:] + q[:-1]) / 2)[:, None], (jnp.diff(q) / 2)[:, None]
            # Over the gaps: each adds what of it the weight has climbed.
            climbed = half + jnp.clip((w[None, :] - middle) / inverse, -half, half)
            return q[0] + climbed.sum(axis=0)

        still = jax.lax.stop_gradient(w)
        soft = jax.vmap(prox)(still, state["levels"]) + (w - still)
        return soft.astype(groups.dtype), state, rounded_info(nearest(still, state["levels"]), self.k)

    def codes(self, w: Array, params: Params, state: State) -> UInt8[Array, "g n"]:
        return nearest(to_groups(w, self.granularity).astype(jnp.float32), state["levels"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SLB(OnArrays):
    """Searching for low-bit weights: k logits a weight, w^_i = sum_j softmax_j(a_ij / epsilon) q_j, levels fixed.

    Keeps n x k parameters, as published; the float weights set their start, a_ij = -(w_i - q_j)^2 / var(w), and are not
    used again. Source: Yang et al., NeurIPS 2020, arXiv 2009.08695.

    Attributes:
      k: number of levels.
      granularity: which weights share levels.
      codebook: where the levels are.
    """

    k: int = 4
    granularity: Granularity = PerTensor()  # noqa: RUF009
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
        codes = jax.lax.stop_gradient(p).argmax(axis=-1).astype(jnp.uint8)
        certain = jnp.mean((jax.lax.stop_gradient(p).max(axis=-1) > 0.99).astype(jnp.float32), axis=1)
        return soft.astype(groups.dtype), state, rounded_info(codes, self.k)._replace(certain=certain)

    def codes(self, w: Array, params: Params, state: State) -> UInt8[Array, "g n"]:
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

    k: int = 4
    granularity: Granularity = PerTensor()  # noqa: RUF009
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
        info = rounded_info(nearest(jax.lax.stop_gradient(w), jnp.sort(levels, axis=-1)), self.k)
        return soft.astype(groups.dtype), {"levels": levels}, info._replace(certain=certain)

    def codes(self, w: Array, params: Params, state: State) -> UInt8[Array, "g n"]:
        return nearest(to_groups(w, self.granularity).astype(jnp.float32), self.levels(params, state))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HardForward(MEC):
    """An ablation of the method: forward through the most probable levels, backward through the soft assignment."""

    def apply_groups(self, groups: Array, params: Params, state: State, epsilon: Any) -> tuple[Array, State, Info]:
        soft, state, info = super().apply_groups(groups, params, state, epsilon)
        levels = self.levels(params, state)
        codes = self.group_codes(groups, params, state)
        hard = jnp.take_along_axis(levels, codes.astype(jnp.int32), axis=1).astype(groups.dtype)
        return jax.lax.stop_gradient(hard) + (soft - jax.lax.stop_gradient(soft)), state, info
