"""The semi-dual of entropic transport from n weights to k levels: k numbers instead of n x k.

One convention, used everywhere in this library. For one group of weights w in R^n (mass 1/n each), ascending levels
q in R^k with masses b (b >= 0, sum 1), cost C_ij = (w_i - q_j)^2, epsilon > 0 in the same unit (weight squared) and
balance rho in (0, 1], which gives the marginal the strength tau = epsilon rho / (1 - rho), the coupling P is
exp((f_i + g_j - C_ij) / epsilon), where f follows from the potentials g of the levels:

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
import numpy as np
from jaxtyping import Array, Float

from mecq_jax.transport._blockwise import map_reduce_blocks, sum_levels, sum_weights

#: A number as a JAX array: `jnp.float32(0.1)`.
Scalar = Float[Array, ""]
EPS32 = float(np.finfo(np.float32).eps)


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
    """The probability p_ij that weight i takes level j.

        p_ij = n P_ij = softmax_j((g_j - (w_i - q_j)^2) / epsilon)

    Args:
      w: weights of one group, [n], float32.
      q: levels, [k], weight.
      g: potentials, [k], weight squared.
      epsilon: entropic regularisation, weight squared.

    Returns:
      p_ij laid out [k, n], so that the long axis is contiguous; its columns sum to 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import probabilities
      >>> p = probabilities(jnp.array([0.0, 5.0]), jnp.array([-1.0, 1.0]), jnp.zeros(2), jnp.float32(1))
      >>> p.round(2).tolist()
      [[0.5, 0.0], [0.5, 1.0]]
    """
    return level_softmax(w, q, g, epsilon).p


def marginal(
    w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"], epsilon: Scalar
) -> Float[Array, " k"]:
    """The mass that each level receives, by one pass over the weights.

        m_j = mean_i p_ij

    Args:
      w: weights of one group, [n], float32.
      q: levels, [k], weight.
      g: potentials, [k], weight squared.
      epsilon: entropic regularisation, weight squared.

    Returns:
      m, [k], with sum 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import marginal
      >>> marginal(jnp.array([-1.0, 1.0, 1.5, 2.0]), jnp.array([-1.0, 1.0]), jnp.zeros(2), jnp.float32(0.01)).tolist()
      [0.25, 0.75]
    """

    def block(w: Float[Array, " n"]) -> tuple[Float[Array, " k"], tuple[()]]:
        return sum_weights(probabilities(w, q, g, epsilon)), ()

    return map_reduce_blocks(block, (w,), q.shape[0])[0] / w.shape[0]


def co_occurrence(p: Float[Array, "k n"]) -> Float[Array, "k k"]:
    """The sums over i of p_ij p_il. Its rows sum to sum_i p_ij, the masses, since each p_i sums to 1."""
    return jnp.dot(p, p.T, precision=jax.lax.Precision.HIGHEST)


def marginal_and_links(
    w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"], epsilon: Scalar
) -> tuple[Float[Array, " k"], Float[Array, "k k"]]:
    """The masses of the levels and the links between them, by one pass over the weights.

        m_j = mean_i p_ij,      L_jl = mean_i p_ij p_il

    L is what the Hessian of the semi-dual is made of: -epsilon hess F = diag(m) - L at balance 1.

    Args:
      w: weights of one group, [n], float32.
      q: levels, [k], weight.
      g: potentials, [k], weight squared.
      epsilon: entropic regularisation, weight squared.

    Returns:
      m, [k], and L, [k, k], symmetric, its rows with sums m.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import marginal_and_links
      >>> m, links = marginal_and_links(jnp.zeros(3), jnp.array([-1.0, 1.0]), jnp.zeros(2), jnp.float32(1))
      >>> m.tolist(), links.tolist()
      ([0.5, 0.5], [[0.25, 0.25], [0.25, 0.25]])
    """

    def block(w: Float[Array, " n"]) -> tuple[Float[Array, "k k"], tuple[()]]:
        return co_occurrence(probabilities(w, q, g, epsilon)), ()

    links = map_reduce_blocks(block, (w,), q.shape[0])[0] / w.shape[0]
    return links.sum(axis=1), links


def relaxed_marginal(
    g: Float[Array, " k"], epsilon: Scalar, b: Float[Array, " k"], balance: float
) -> Float[Array, " k"]:
    """The masses that the relaxed marginal asks of the levels; at the solution they are the masses m(g).

        beta(g) = softmax_j(log b_j - g_j / tau),      tau = epsilon rho / (1 - rho)

    Args:
      g: potentials, [k], weight squared.
      epsilon: entropic regularisation, weight squared.
      b: level masses, [k], at least 0, sum 1.
      balance: rho, in (0, 1].

    Returns:
      beta, [k], with sum 1; b itself at balance 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import relaxed_marginal
      >>> g, b = jnp.array([-0.5, 0.5]), jnp.array([0.5, 0.5])
      >>> [round(float(x), 2) for x in relaxed_marginal(g, jnp.float32(1), b, balance=0.5)]
      [0.73, 0.27]

    Source: Chizat et al., 2018, "Scaling algorithms for unbalanced optimal transport problems", arXiv 1607.05816.
    """
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
    """The semi-dual objective F, which the solution maximises and which is concave in g.

        F(g) = -tau log sum_j b_j exp(-g_j / tau) - epsilon mean_i logsumexp_j((g_j - C_ij) / epsilon)

    At balance 1 the first term is sum_j b_j g_j. The gradient in g is beta(g) - m(g).

    Args:
      w: weights of one group, [n], float32.
      q: levels, [k], weight.
      g: potentials, [k], weight squared.
      epsilon: entropic regularisation, weight squared.
      b: level masses, [k], at least 0, sum 1.
      balance: rho, in (0, 1].

    Returns:
      F(g), weight squared; at the solution and balance 1 it is <C, P> - epsilon mean_i H_i.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import dual_value, solve
      >>> w, q, b = jnp.array([-1.0, 0.0, 2.0, 3.0]), jnp.array([-1.0, 1.0]), jnp.array([0.5, 0.5])
      >>> g = solve(w, q, 0.5, b).potentials
      >>> values = [dual_value(w, q, x, jnp.float32(0.5), b, balance=1.0) for x in (g, jnp.zeros(2))]
      >>> bool(values[0] > values[1])
      True
    """

    def block(w: Float[Array, " n"]) -> tuple[Scalar, tuple[()]]:
        s = level_softmax(w, q, g, epsilon)
        return sum_weights(s.top + epsilon * jnp.log(s.total)), ()

    smooth = map_reduce_blocks(block, (w,), q.shape[0])[0] / w.shape[0]
    if balance == 1:
        return jnp.sum(jnp.where(b > 0, b * g, 0.0)) - smooth
    tau = epsilon * (balance / (1 - balance))
    return -tau * jax.nn.logsumexp(jnp.where(b > 0, _log_masses(b) - g / tau, -jnp.inf)) - smooth


def _log_masses(b: Float[Array, " k"]) -> Float[Array, " k"]:
    return jnp.log(jnp.where(b > 0, b, 1.0))


def marginal_error(m: Float[Array, " k"], beta: Float[Array, " k"]) -> Scalar:
    """The worst error of a level's mass, in units of a uniform level's mass.

        k max_j |beta_j - m_j|

    Args:
      m: the masses that the levels receive, [k].
      beta: the masses that they are to receive, [k].

    Returns:
      The error, at least 0; 0.01 is 1 % of a uniform level's mass 1/k.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import marginal_error
      >>> float(marginal_error(jnp.array([0.375, 0.625]), jnp.array([0.5, 0.5])))
      0.25
    """
    return m.shape[0] * jnp.max(jnp.abs(beta - m))
