"""The semi-dual of entropic transport from n weights to k levels: k numbers instead of n x k.

One convention, used everywhere in this library. For one group of weights w in R^n (mass 1/n each), ascending levels
q in R^k with masses b (sum 1), cost C_ij = (w_i - q_j)^2 and epsilon > 0 in the same unit (weight squared):

    P        = argmin_{P >= 0} <C, P> - epsilon H(P)        s.t.  P 1 = 1/n,  P^T 1 = b
    p_ij     = n P_ij = softmax_j((g_j - C_ij) / epsilon)
    F(g)     = sum_j b_j g_j - epsilon mean_i logsumexp_j((g_j - C_ij) / epsilon)           (concave, maximised)
    grad F   = b - m(g),                            m_j = mean_i p_ij
    -hess F  = (diag(m) - mean_i p_i p_i^T) / epsilon

The potentials g are free up to a constant, fixed here by sum_j g_j = 0; they carry epsilon log b, as ott-jax's do.
Arrays of size n x k are laid out level-major, [k, n], so that the long axis is contiguous.
Source: Cuturi and Peyre, 2018, "Semi-dual regularized optimal transport", SIAM Review 60(4).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""]


def logits(
    w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"], epsilon: Scalar
) -> Float[Array, "k n"]:
    """l_ji = (g_j - (w_i - q_j)^2) / epsilon; softmax over j (axis 0) gives p."""
    # The square of a difference, not its expansion: near a border both costs are small and so is their rounding.
    return (g[:, None] - jnp.square(w[None, :] - q[:, None])) / epsilon


def probabilities(
    w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"], epsilon: Scalar
) -> Float[Array, "k n"]:
    """p_ij, laid out [k, n]: the probability that weight i takes level j."""
    return jax.nn.softmax(logits(w, q, g, epsilon), axis=0)


def marginal(
    w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"], epsilon: Scalar
) -> Float[Array, " k"]:
    """m_j = mean_i p_ij: the mass that level j receives."""
    return probabilities(w, q, g, epsilon).mean(axis=1)


def marginal_and_links(
    w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"], epsilon: Scalar
) -> tuple[Float[Array, " k"], Float[Array, "borders borders"]]:
    """m and the curvature in coordinates that have no null space.

    K = -epsilon hess F = diag(m) - mean p p^T is the Laplacian of the graph of levels with links mean_i p_ij p_il.
    In the k - 1 gaps d_a = g_{a+1} - g_a, g^T K g = d^T C d where

        C_ab = sum_{j <= min(a, b)} sum_{l > max(a, b)} mean_i p_ij p_il          (the links that cross both borders)

    C is a sum of positive numbers, so weak links keep their relative precision (K's diagonal would lose them by
    cancellation); it is regular, and nearly diagonal where epsilon is small.
    """
    p = probabilities(w, q, g, epsilon)
    links = jnp.einsum("jn,ln->jl", p, p) / w.shape[0]
    links = links * (1 - jnp.eye(q.shape[0], dtype=p.dtype))
    tails = jnp.cumsum(links[:, ::-1], axis=1)[:, ::-1][:, 1:]
    crossing = jnp.triu(jnp.cumsum(tails, axis=0)[:-1])
    return p.mean(axis=1), crossing + jnp.triu(crossing, 1).T


def from_gaps(gaps: Float[Array, " borders"]) -> Float[Array, " k"]:
    """The u with sum_j u_j = 0 and u_{a+1} - u_a = gaps_a."""
    u = jnp.concatenate([jnp.zeros_like(gaps[:1]), jnp.cumsum(gaps)])
    return u - u.mean()


def solve_links(
    links: Float[Array, "borders borders"], rhs: Float[Array, " k"], *, rounding: float = 0.0
) -> Float[Array, " borders"]:
    """The gaps d of the u with K u = rhs - mean(rhs): C d = suffix sums of rhs. `from_gaps` gives u.

    Args:
      links: C of `marginal_and_links`.
      rhs: right-hand side.
      rounding: size of a border's link below which what crosses it is rounding alone: its part is then taken out,
        smoothly, by C^2 / (C^2 + rounding^2), which is 1 to float32 above 1e4 `rounding`. 0 takes nothing out.
    """
    diagonal = jnp.diag(links)
    centred = rhs - rhs.mean()
    across = jnp.cumsum(centred[::-1])[::-1][1:]
    if rounding:
        across = across * jnp.square(diagonal) / (jnp.square(diagonal) + rounding**2)
    scale = jax.lax.rsqrt(jnp.maximum(diagonal, 1e-12))
    scaled = links * scale[:, None] * scale[None, :]
    # Only borders that nothing crosses have less than 1 on the diagonal.
    scaled = scaled + jnp.diag(1 - jnp.diag(scaled))
    return scale * jnp.linalg.solve(scaled, scale * across)


def marginal_error(m: Float[Array, " k"], b: Float[Array, " k"]) -> Scalar:
    """k max_j |b_j - m_j|: the worst error of a level's mass, in units of a uniform level's mass."""
    return m.shape[0] * jnp.max(jnp.abs(b - m))


def start_low(
    w: Float[Array, " n"], q: Float[Array, " k"], epsilon: Scalar, b: Float[Array, " k"]
) -> Float[Array, " k"]:
    """The potentials of the limit epsilon -> 0: cell borders at the quantiles of w.

    The border of cells j and j+1 falls at mass B_j = b_1 + ... + b_j, inside a block of equal weights x (one weight,
    or a tie) of which cell j holds o_j and cell j+1 o_{j+1}. Its weights are shared in that proportion when

        g_{j+1} - g_j = (x - q_{j+1})^2 - (x - q_j)^2 + epsilon log(o_{j+1} / o_j)

    so ties, constant weights and n < k are right at once. A border that falls between two weights goes to the middle.
    """
    n = w.shape[0]
    ordered = jnp.sort(w)
    border = jnp.clip(jnp.cumsum(b)[:-1], 0, 1) * n
    near = jnp.round(border)
    border = jnp.where(jnp.abs(border - near) < 1e-5 * n, near, border) if n <= 4096 else border
    index = jnp.clip(jnp.floor(border).astype(jnp.int32), 0, n - 1)
    x = ordered[index]
    first = jnp.searchsorted(ordered, x, side="left").astype(w.dtype)
    last = jnp.searchsorted(ordered, x, side="right").astype(w.dtype)
    before = jnp.concatenate([jnp.zeros_like(border[:1]), border[:-1]])
    after = jnp.concatenate([border[1:], jnp.full_like(border[:1], n)])
    below = border - jnp.maximum(before, first)
    above = jnp.minimum(after, last) - border
    least = 1e-4 * jnp.asarray(n, w.dtype) / b.shape[0]
    share = jnp.log(jnp.maximum(above, jnp.minimum(least, 1e-3)) / jnp.maximum(below, jnp.minimum(least, 1e-3)))
    between = below <= 0
    x = jnp.where(between, (x + ordered[jnp.maximum(index - 1, 0)]) / 2, x)
    share = jnp.where(between, 0.0, share)
    steps = jnp.square(x - q[1:]) - jnp.square(x - q[:-1]) + epsilon * share
    g = jnp.concatenate([jnp.zeros_like(steps[:1]), jnp.cumsum(steps)])
    return g - g.mean()


def start_high(
    w: Float[Array, " n"], q: Float[Array, " k"], epsilon: Scalar, b: Float[Array, " k"]
) -> Float[Array, " k"]:
    """The potentials of the limit epsilon -> infinity: g_j = mean_i C_ij + epsilon log b_j."""
    g = jnp.square(w.mean() - q) + w.var() + epsilon * jnp.log(b)
    return g - g.mean()
