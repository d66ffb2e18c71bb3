"""The semi-dual of entropic transport from n weights to k levels: k numbers instead of n x k.

One convention, used everywhere in this library. For one group of weights w in R^n (mass 1/n each), ascending levels
q in R^k with masses b (b >= 0, sum 1), cost C_ij = (w_i - q_j)^2, epsilon > 0 in the same unit (weight squared) and
balance rho in (0, 1], which gives the marginal the strength tau = epsilon rho / (1 - rho):

    P        = argmin_{P >= 0} <C, P> - epsilon H(P) + tau KL(P^T 1 | b)    s.t.  P 1 = 1/n                  (rho < 1)
    P        = argmin_{P >= 0} <C, P> - epsilon H(P)                        s.t.  P 1 = 1/n,  P^T 1 = b     (rho = 1)
    p_ij     = n P_ij = softmax_j((g_j - C_ij) / epsilon),                  m_j = mean_i p_ij
    F(g)     = -tau log sum_j b_j exp(-g_j / tau) - epsilon mean_i logsumexp_j((g_j - C_ij) / epsilon)
    grad F   = beta(g) - m(g),           beta = softmax_j(log b_j - g_j / tau)      (rho = 1: beta = b, F linear in b)
    -hess F  = (diag(m) - mean_i p_i p_i^T) / epsilon + (diag(beta) - beta beta^T) / tau

F is concave and maximised. At rho -> 0 the potentials g vanish and p is a softmax over distances (differentiable
k-means). g is free up to a constant, fixed by mean_j g_j = 0 over the levels of positive mass; it carries
epsilon log b, as ott-jax's potentials do. Arrays of size n x k exist for blocks of weights only, level-major, so that
the long axis is contiguous.
Sources: Cuturi and Peyre, 2018, "Semi-dual regularized optimal transport", SIAM Review 60(4); Chizat et al., 2018,
"Scaling algorithms for unbalanced optimal transport problems" (the relaxed marginal).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mecq_jax.transport._blockwise import map_reduce_blocks, sum_levels, sum_weights

Scalar = Float[Array, ""]
EPS32 = float(jnp.finfo(jnp.float32).eps)


class LevelSoftmax(NamedTuple):
    """softmax_j of (g_j - C_ij) / epsilon, with what it was made of.

    Attributes:
      p: p_ij, laid out [k, n].
      logits: less their largest over j.
      total: sum_j exp(logits).
      top: the largest over j of g_j - C_ij.
    """

    p: Float[Array, "k n"]
    logits: Float[Array, "k n"]
    total: Float[Array, " n"]
    top: Float[Array, " n"]


def level_softmax(w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"], epsilon: Scalar) -> LevelSoftmax:
    """The probabilities of every level for every weight, and the parts of their logarithm."""
    # The square of a difference, not its expansion: near a border both costs are small and so is their rounding.
    score = g[:, None] - jnp.square(w[None, :] - q[:, None])
    top = jax.lax.stop_gradient(score.max(axis=0))
    # Reciprocals of epsilon and of n sums, where divisions would be 2 k n of the slowest operations here.
    l = (score - top[None, :]) * (1 / epsilon)
    e = jnp.exp(l)
    total = sum_levels(e)
    return LevelSoftmax(e * (1 / total)[None, :], l, total, top)


def probabilities(
    w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"], epsilon: Scalar
) -> Float[Array, "k n"]:
    """p_ij, laid out [k, n]: the probability that weight i takes level j."""
    return level_softmax(w, q, g, epsilon).p


def marginal(
    w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"], epsilon: Scalar
) -> Float[Array, " k"]:
    """m_j = mean_i p_ij: the mass that level j receives."""
    total, _ = map_reduce_blocks(lambda w: (sum_weights(probabilities(w, q, g, epsilon)), ()), (w,), q.shape[0])
    return total / w.shape[0]


def co_occurrence(p: Float[Array, "k n"]) -> Float[Array, "k k"]:
    """sum_i p_ij p_il. Its rows sum to sum_i p_ij, the masses, since each p_i sums to 1."""
    return jnp.dot(p, p.T, precision=jax.lax.Precision.HIGHEST)


def marginal_and_links(
    w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"], epsilon: Scalar
) -> tuple[Float[Array, " k"], Float[Array, "k k"]]:
    """m_j, and the links mean_i p_ij p_il between levels, in one pass over the weights."""
    links, _ = map_reduce_blocks(lambda w: (co_occurrence(probabilities(w, q, g, epsilon)), ()), (w,), q.shape[0])
    links = links / w.shape[0]
    return links.sum(axis=1), links


def relaxed_marginal(
    g: Float[Array, " k"], epsilon: Scalar, b: Float[Array, " k"], balance: float
) -> Float[Array, " k"]:
    """beta(g) = softmax_j(log b_j - g_j / tau): the masses that the relaxed marginal asks for; b at balance 1."""
    if balance == 1:
        return b
    tau = epsilon * (balance / (1 - balance))
    return jax.nn.softmax(jnp.where(b > 0, _log_masses(b) - g / tau, -jnp.inf))


def dual_value(
    w: Float[Array, " n"],
    q: Float[Array, " k"],
    g: Float[Array, " k"],
    epsilon: Scalar,
    b: Float[Array, " k"],
    balance: float,
) -> Scalar:
    """F(g)."""

    def block(w):
        s = level_softmax(w, q, g, epsilon)
        return sum_weights(s.top + epsilon * jnp.log(s.total)), ()

    total, _ = map_reduce_blocks(block, (w,), q.shape[0])
    smooth = total / w.shape[0]
    if balance == 1:
        return jnp.sum(jnp.where(b > 0, b * g, 0.0)) - smooth
    tau = epsilon * (balance / (1 - balance))
    return -tau * jax.nn.logsumexp(jnp.where(b > 0, _log_masses(b) - g / tau, -jnp.inf)) - smooth


def _log_masses(b: Float[Array, " k"]) -> Float[Array, " k"]:
    return jnp.log(jnp.where(b > 0, b, 1.0))


def marginal_error(m: Float[Array, " k"], beta: Float[Array, " k"]) -> Scalar:
    """k max_j |beta_j - m_j|: the worst error of a level's mass, in units of a uniform level's mass."""
    return m.shape[0] * jnp.max(jnp.abs(beta - m))
