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

from mecq_jax.streaming import across, along, over_blocks

Scalar = Float[Array, ""]
EPS32 = float(jnp.finfo(jnp.float32).eps)
# Factorisations of at most this many steps are unrolled into plain arithmetic, which XLA fuses.
UNROLLED = 8


class Softened(NamedTuple):
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


def soften(w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"], epsilon: Scalar) -> Softened:
    """The probabilities of every level for every weight, and the parts of their logarithm."""
    # The square of a difference, not its expansion: near a border both costs are small and so is their rounding.
    score = g[:, None] - jnp.square(w[None, :] - q[:, None])
    top = jax.lax.stop_gradient(score.max(axis=0))
    # Reciprocals of epsilon and of n sums, where divisions would be 2 k n of the slowest operations here.
    l = (score - top[None, :]) * (1 / epsilon)
    e = jnp.exp(l)
    total = across(e)
    return Softened(e * (1 / total)[None, :], l, total, top)


def probabilities(
    w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"], epsilon: Scalar
) -> Float[Array, "k n"]:
    """p_ij, laid out [k, n]: the probability that weight i takes level j."""
    return soften(w, q, g, epsilon).p


def marginal(
    w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"], epsilon: Scalar
) -> Float[Array, " k"]:
    """m_j = mean_i p_ij: the mass that level j receives."""
    total, _ = over_blocks(lambda w: (along(probabilities(w, q, g, epsilon)), ()), (w,), q.shape[0])
    return total / w.shape[0]


def links_of(p: Float[Array, "k n"]) -> Float[Array, "k k"]:
    """sum_i p_ij p_il. Its rows sum to sum_i p_ij, the masses, since each p_i sums to 1."""
    return jnp.dot(p, p.T, precision=jax.lax.Precision.HIGHEST)


def marginal_and_links(
    w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"], epsilon: Scalar
) -> tuple[Float[Array, " k"], Float[Array, "k k"]]:
    """m_j, and the links mean_i p_ij p_il between levels, in one pass over the weights."""
    links, _ = over_blocks(lambda w: (links_of(probabilities(w, q, g, epsilon)), ()), (w,), q.shape[0])
    links = links / w.shape[0]
    return links.sum(axis=1), links


def target(g: Float[Array, " k"], epsilon: Scalar, b: Float[Array, " k"], balance: float) -> Float[Array, " k"]:
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
        s = soften(w, q, g, epsilon)
        return along(s.top + epsilon * jnp.log(s.total)), ()

    total, _ = over_blocks(block, (w,), q.shape[0])
    smooth = total / w.shape[0]
    if balance == 1:
        return jnp.sum(jnp.where(b > 0, b * g, 0.0)) - smooth
    tau = epsilon * (balance / (1 - balance))
    return -tau * jax.nn.logsumexp(jnp.where(b > 0, _log_masses(b) - g / tau, -jnp.inf)) - smooth


def _log_masses(b: Float[Array, " k"]) -> Float[Array, " k"]:
    return jnp.log(jnp.where(b > 0, b, 1.0))


def curvature(links: Float[Array, "k k"], beta: Float[Array, " k"], balance: float) -> Float[Array, "k k"]:
    """The links whose Laplacian is -epsilon hess F: those of p, and those of beta times epsilon / tau.

    diag(m) - mean p p^T is the Laplacian of the graph of levels with links mean_i p_ij p_il, j != l; likewise
    diag(beta) - beta beta^T. Kept as links, all positive, it loses nothing to cancellation.
    """
    if balance < 1:
        links = links + ((1 - balance) / balance) * beta[:, None] * beta[None, :]
    return links * (1 - jnp.eye(links.shape[0], dtype=links.dtype))


def centre(g: Float[Array, " k"], b: Float[Array, " k"]) -> Float[Array, " k"]:
    """g less its mean over the levels of positive mass."""
    active = (b > 0).astype(g.dtype)
    return g - jnp.sum(jnp.where(b > 0, g, 0.0)) / active.sum()


def solve_laplacian(
    links: Float[Array, "k k"],
    rhs: Float[Array, " k"],
    b: Float[Array, " k"],
    *,
    noise: Float[Array, " k"],
    weak: Float[Array, " k"] | None = None,
    reach: Float[Array, " k"] | None = None,
) -> Float[Array, " k"]:
    """u with (Laplacian of links) u = rhs - mean(rhs), mean 0 over the levels of positive mass, and 0 on the others.

    L D L^T by eliminating level after level from the graph (Grassmann, Taksar and Heyman, 1985, Operations Research
    33(5)): the links of a level are handed to its neighbours, links_jl += links_ji links_il / sum_l links_il.
    Nothing is subtracted, so weakly linked levels and levels of tiny mass keep their relative precision, and the null
    space needs no care. Plain arithmetic, which batches and fuses, where a call of the LAPACK or cuSOLVER kind costs
    more than the pass over the weights.

    Args:
      links: of `curvature`, not negative.
      rhs: right-hand side, a number for each level.
      b: level masses.
      noise: rounding error of rhs, a number for each level; what of L^-1 rhs is within its sum is taken for 0, or it
        would be blown up where a cut through the graph has almost no links.
      weak: for each level, of its mass, what it may be linked by and still be cut off: the links of a cut are weighed
        against its sum over what the cut parts, by D^2 / (D^2 + weak^2). A derivative across such a cut is rounding.
      reach: bound on D^-1 L^-1 rhs, each level's move against the levels above it. A bounded direction is an ascent
        direction still, since rhs . u = (L^-1 rhs) . (D^-1 L^-1 rhs).
    """
    k = rhs.shape[0]
    index = jnp.arange(k)
    carried = jnp.stack([jnp.where(b > 0, centre(rhs, b), 0.0), noise, jnp.zeros_like(rhs) if weak is None else weak])

    def eliminate(i, state):
        a, carried, pivots = state
        row = jnp.where(index > i, a[i], 0.0)
        pivot = row.sum()
        share = row / jnp.maximum(pivot, 1e-30)
        a = a + row[:, None] * share[None, :]
        return a.at[i].set(share), carried + carried[:, i, None] * share[None, :], pivots.at[i].set(pivot)

    state = _repeat(k - 1, eliminate, (links, carried, jnp.zeros_like(rhs)))
    shares, (y, doubt, cut), pivots = state
    y = jnp.sign(y) * jnp.maximum(jnp.abs(y) - doubt, 0.0)
    inverse = 1 / jnp.maximum(pivots, 1e-30)
    if weak is not None:  # one division: XLA would turn two into one by a product that underflows
        inverse = pivots / jnp.maximum(jnp.square(pivots) + jnp.square(cut), 1e-37)
    move = jnp.clip(y * inverse, -1e15, 1e15)
    if reach is not None:
        move = jnp.clip(move, -reach, reach)

    def substitute(i, u):
        i = k - 2 - i
        return u.at[i].set(move[i] + jnp.sum(jnp.where(index > i, shares[i], 0.0) * u))

    u = _repeat(k - 1, substitute, jnp.zeros_like(rhs))
    return jnp.where(b > 0, centre(u, b), 0.0)


def _repeat(times, body, state):
    """fori_loop, unrolled where it is short enough for XLA to fuse."""
    if times <= UNROLLED:
        for i in range(times):
            state = body(i, state)
        return state
    return jax.lax.fori_loop(0, times, body, state)


def marginal_error(m: Float[Array, " k"], beta: Float[Array, " k"]) -> Scalar:
    """k max_j |beta_j - m_j|: the worst error of a level's mass, in units of a uniform level's mass."""
    return m.shape[0] * jnp.max(jnp.abs(beta - m))
