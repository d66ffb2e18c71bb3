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


def marginal_and_curvature(
    w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"], epsilon: Scalar
) -> tuple[Float[Array, " k"], Float[Array, "k k"]]:
    """m and K = diag(m) - mean_i p_i p_i^T, which is -epsilon hess F."""
    p = probabilities(w, q, g, epsilon)
    m = p.mean(axis=1)
    second = jnp.einsum("jn,ln->jl", p, p) / w.shape[0]
    return m, jnp.diag(m) - second


def solve_curvature(curvature: Float[Array, "k k"], rhs: Float[Array, " k"]) -> Float[Array, " k"]:
    """The u with sum_j u_j = 0 and K u = rhs - mean(rhs).

    K 1 = 0, so K + s 1 1^T is regular, has K's eigenpairs on {sum u = 0}, and gives the same u there whatever s > 0:
    the null space is handled exactly. What is added beyond that, for levels whose cells are empty, is at the rounding
    level of K and moves no u that K determines.
    """
    k = rhs.shape[0]
    # Jacobi scaling first: curvatures of levels differ by many orders of magnitude when cells are nearly empty.
    diagonal = jnp.maximum(jnp.diag(curvature), 1e-12)
    scale = jax.lax.rsqrt(diagonal)
    null = 1 / scale
    null = null / jnp.linalg.norm(null)
    scaled = curvature * scale[:, None] * scale[None, :] + null[:, None] * null[None, :]
    scaled = scaled + 1e-7 * jnp.eye(k, dtype=scaled.dtype)
    centred = rhs - rhs.mean()
    u = scale * jnp.linalg.solve(scaled, scale * centred)
    return u - u.mean()


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
