"""Piecewise-affine regularised quantization, with least-squares binary levels."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._base import Diagnostics, GroupedQuantizer
from mecq_jax.quantizers._straight_through import hard_diagnostics, nearest_codes, straight_through
from mecq_jax.quantizers._types import Codes, Groups, Levels, Params, State, Temperature


def greedy_binary(w: Float[Array, " n"], bits: int) -> Float[Array, " bits"]:
    """a_i = mean|r|, r <- r - a_i sign(r), from r = w: where `least_squares_binary` starts."""
    rest, a = w, []
    for _ in range(bits):
        a.append(jnp.abs(rest).mean())
        rest = rest - a[-1] * jnp.where(rest >= 0, 1.0, -1.0)
    return jnp.stack(a)


def _signs(bits: int) -> Float[np.ndarray, "k bits"]:
    """Every combination of signs, a row each."""
    return np.array([[1.0 if j >> i & 1 else -1.0 for i in range(bits)] for j in range(2**bits)], np.float32)


def binary_levels(a: Float[Array, " bits"]) -> Float[Array, " k"]:
    """The sums of +-a_i, ascending."""
    return jnp.sort(jnp.dot(_signs(a.shape[0]), a, precision=jax.lax.Precision.HIGHEST))


def least_squares_binary(w: Float[Array, " n"], a: Float[Array, " bits"], sweeps: int) -> Float[Array, " bits"]:
    """`sweeps` rounds of nearest level and least squares towards min_a |w - q[code]|^2, q = {sum_i +-a_i}: LSBQ.

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

        prox(w) = clip(m + (w - m) / temperature, q_j, q_{j+1})   between levels j and j + 1,   m their middle

    Here the temperature is the inverse slope of prox: 1 is the identity between the outer levels, 0 rounds to the
    nearest (the authors let it fall by a sigmoid to 0). Levels are least-squares binary ones, q = {sum_i +-a_i}, which
    follow the weights by one sweep a step.

    Attributes:
      k: number of levels: 2, 4, 8 or 16; 2**bits if it is not given, 4 if neither is.
      bits: width of a code, 1 to 4; may be given in the place of k.
      granularity: which weights share levels.

    Raises:
      ValueError: if k is not 2, 4, 8 or 16.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers.baselines import PARQ
      >>> w, quantizer = jnp.array([[-1.0, -0.4], [0.4, 1.0]], jnp.float32), PARQ(bits=1)
      >>> params, state = quantizer.init(w)
      >>> soft, state, diagnostics = quantizer.apply(w, params, state, temperature=0.1)
      >>> quantizer.codes(w, params, state)
      Array([[0, 0, 1, 1]], dtype=uint8)

    Source: Jin et al., ICML 2025, arXiv 2503.15748.
    """

    def __post_init__(self) -> None:
        """Check that binary levels can be k in number."""
        super().__post_init__()
        if self.k & (self.k - 1):
            raise ValueError(
                f"k = {self.k}: least-squares binary levels are 2, 4, 8 or 16 in number; give one of these"
            )

    def init(self, w: Array) -> tuple[Params, State]:
        """No parameters; state `scales` (a), [g, log2 k], and `levels`, [g, k]."""
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        start = jax.vmap(partial(greedy_binary, bits=self.k.bit_length() - 1))(groups)
        return {}, self._follow(groups, start, sweeps=20)

    def _follow(self, groups: Groups, scales: Float[Array, "g bits"], sweeps: int) -> State:
        """The state after so many sweeps towards these weights."""
        sweep = jax.vmap(partial(least_squares_binary, sweeps=sweeps))
        scales = sweep(jax.lax.stop_gradient(groups), scales)
        return {"scales": scales, "levels": jax.vmap(binary_levels)(scales)}

    def levels(self, params: Params, state: State) -> Levels:
        """The least-squares binary levels."""
        return state["levels"]

    def apply_groups(
        self, groups: Groups, params: Params, state: State, temperature: Temperature | None
    ) -> tuple[Groups, State, Diagnostics]:
        """prox(w), with the derivative of the identity; `temperature` is the inverse slope, at most 1."""
        w = groups.astype(jnp.float32)
        state = self._follow(w, state["scales"], sweeps=1)
        inverse = jnp.clip(jnp.asarray(self._needed(temperature), jnp.float32), 1e-6, 1.0)

        def prox(w: Float[Array, " n"], q: Float[Array, " k"]) -> Float[Array, " n"]:
            middle, half = ((q[1:] + q[:-1]) / 2)[:, None], (jnp.diff(q) / 2)[:, None]
            # Over the gaps: each adds what of it the weight has climbed.
            climbed = half + jnp.clip((w[None, :] - middle) / inverse, -half, half)
            return q[0] + climbed.sum(axis=0)

        still = jax.lax.stop_gradient(w)
        soft = straight_through(jax.vmap(prox)(still, state["levels"]), w)
        return soft.astype(groups.dtype), state, hard_diagnostics(self.group_codes(still, params, state), self.k)

    def group_codes(self, groups: Groups, params: Params, state: State) -> Codes:
        """The nearest level."""
        return nearest_codes(groups, state["levels"])
