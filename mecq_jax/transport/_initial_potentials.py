"""Where solvers of the semi-dual start: its two limits, epsilon to 0 and to infinity, and no potentials at all.

Potentials are those of `mecq_jax.transport`, in weight^2. The limit epsilon -> 0 is taken on a sample of the weights,
`sorted_sample(w, k)`, which is all of them where they are few.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mecq_jax.transport._blockwise import subsample
from mecq_jax.transport._laplacian import centre
from mecq_jax.transport._semidual import Scalar, dual_value

# Weights of a sample for each level: the mass of a level is off by some 2 %, which Newton mends.
SAMPLE = 2**11
Samples = Float[Array, "parts m"]


def sorted_sample(w: Float[Array, " n"], k: int) -> Samples:
    """A sorted sample of the weights, on which a solver with k levels can be started.

    Args:
      w: weights of one group, [n].
      k: the number of levels.

    Returns:
      About 2^11 k of the weights (at most 2^16), or all of them where they are fewer, [parts, m]: each row sorted,
      one row a device where the group is cut over devices, else one.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import sorted_sample
      >>> sorted_sample(jnp.array([0.5, -0.5, 0.25]), k=2).tolist()
      [[-0.5, 0.25, 0.5]]
    """
    return subsample(w, min(SAMPLE * k, 2**16))


def small_epsilon(
    samples: Samples, q: Float[Array, " k"], epsilon: Scalar, b: Float[Array, " k"]
) -> Float[Array, " k"]:
    """The potentials of the limit epsilon -> 0 at balance 1, where the borders of the cells are quantiles of w.

        g_{j+1} - g_j = (x_j - q_{j+1})^2 - (x_j - q_j)^2,      x_j the quantile of w at mass b_1 + ... + b_j

    Where a border falls into equal weights, epsilon shares them between its two cells.

    Args:
      samples: `sorted_sample(w, k)`, [parts, m], weight.
      q: levels, [k], weight, ascending.
      epsilon: entropic regularisation, weight squared.
      b: level masses, [k], at least 0, sum 1.

    Returns:
      g, [k], weight squared.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import small_epsilon, thresholds
      >>> w, q, b = jnp.array([[0.0, 1.0, 2.0, 9.0]]), jnp.array([0.0, 9.0]), jnp.array([0.5, 0.5])
      >>> thresholds(q, small_epsilon(w, q, jnp.float32(1e-3), b)).tolist()
      [1.5]
    """
    return jax.vmap(lambda ordered: _at_quantiles(ordered, q, epsilon, b))(samples).mean(axis=0)


def _at_quantiles(
    ordered: Float[Array, " m"], q: Float[Array, " k"], epsilon: Scalar, b: Float[Array, " k"]
) -> Float[Array, " k"]:
    """`small_epsilon` of one sorted row.

    The border of cells j and j+1 falls at mass B_j = b_1 + ... + b_j of the sorted weights, inside a block of equal
    weights x (one weight, or a tie) of which cell j holds o_j and cell j+1 o_{j+1}. They are shared so when

        g_{j+1} - g_j = (x - q_{j+1})^2 - (x - q_j)^2 + epsilon log(o_{j+1} / o_j)

    so ties, constant weights and n < k are right at once. A border that falls between two weights goes to the middle.
    """
    n = ordered.shape[0]
    border = jnp.clip(jnp.cumsum(b)[:-1], 0, 1) * n
    near = jnp.round(border)
    border = jnp.where(jnp.abs(border - near) < 1e-5 * n, near, border) if n <= 4096 else border
    index = jnp.clip(jnp.floor(border).astype(jnp.int32), 0, n - 1)
    x = ordered[index]
    first = jnp.searchsorted(ordered, x, side="left").astype(ordered.dtype)
    last = jnp.searchsorted(ordered, x, side="right").astype(ordered.dtype)
    # The next borders at another mass: a level of zero mass puts two at the same.
    lower, higher = border[None, :] < border[:, None], border[None, :] > border[:, None]
    before = jnp.max(jnp.where(lower, border[None, :], 0.0), axis=1)
    after = jnp.min(jnp.where(higher, border[None, :], jnp.asarray(n, ordered.dtype)), axis=1)
    below = border - jnp.maximum(before, first)
    above = jnp.minimum(after, last) - border
    least = min(1e-4 * n / b.shape[0], 1e-3)
    share = jnp.log(jnp.maximum(above, least) / jnp.maximum(below, least))
    between = below <= 0
    x = jnp.where(between, (x + ordered[jnp.maximum(index - 1, 0)]) / 2, x)
    # Of the borders at one mass only the last parts two cells that hold any.
    share = jnp.where(between | ~(b[1:] > 0), 0.0, share)
    steps = jnp.square(x - q[1:]) - jnp.square(x - q[:-1]) + epsilon * share
    return centre(jnp.concatenate([jnp.zeros_like(steps[:1]), jnp.cumsum(steps)]), b)


def large_epsilon(
    w: Float[Array, " n"], q: Float[Array, " k"], epsilon: Scalar, b: Float[Array, " k"], balance: float = 1.0
) -> Float[Array, " k"]:
    """The potentials of the limit epsilon -> infinity, where every weight takes each level alike.

        g_j = rho (mean_i C_ij + epsilon log b_j)        up to a constant

    Args:
      w: weights of one group, [n].
      q: levels, [k], weight.
      epsilon: entropic regularisation, weight squared.
      b: level masses, [k], at least 0, sum 1.
      balance: rho, in (0, 1].

    Returns:
      g, [k], weight squared, mean 0 over the levels of positive mass.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import large_epsilon
      >>> w, q, b = jnp.array([0.0, 2.0]), jnp.array([1.0, 3.0]), jnp.array([0.5, 0.5])
      >>> large_epsilon(w, q, jnp.float32(100), b).tolist()
      [-2.0, 2.0]
    """
    masses = jnp.log(jnp.where(b > 0, b, 1.0))
    return centre(balance * (jnp.square(w.mean() - q) + epsilon * masses), b)


def cold_start(
    samples: Samples, q: Float[Array, " k"], epsilon: Scalar, b: Float[Array, " k"], balance: float
) -> Float[Array, " k"]:
    """Of the two limits the potentials of the higher dual value, at this epsilon.

    The solution sits between the limits. At balance below 1 the nearest level, g = 0, is compared too: the limit
    epsilon -> 0 of the relaxed marginal.

    Args:
      samples: `sorted_sample(w, k)`, [parts, m], weight.
      q: levels, [k], weight, ascending.
      epsilon: entropic regularisation, weight squared.
      b: level masses, [k], at least 0, sum 1.
      balance: rho, in (0, 1].

    Returns:
      g, [k], weight squared; far below the others at a level of no mass.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import cold_start
      >>> w, q, b = jnp.array([[0.0, 1.0, 2.0, 9.0]]), jnp.array([0.0, 9.0]), jnp.array([0.5, 0.5])
      >>> cold_start(w, q, jnp.float32(1e-3), b, balance=1.0).tolist()
      [-27.0, 27.0]
    """
    w = samples.reshape(-1)
    candidates = [small_epsilon(samples, q, epsilon, b), large_epsilon(w, q, epsilon, b, balance)]
    if balance < 1:
        candidates.append(jnp.zeros_like(q))
    candidates = [exclude(g, w, q, epsilon, b) for g in candidates]
    values = jnp.stack([dual_value(w, q, g, epsilon, b, balance) for g in candidates])
    return jnp.stack(candidates)[values.argmax()]


def exclude(
    g: Float[Array, " k"], w: Float[Array, " n"], q: Float[Array, " k"], epsilon: Scalar, b: Float[Array, " k"]
) -> Float[Array, " k"]:
    """Potentials with the levels of zero mass so low that no weight of this range takes them: exp underflows to 0."""
    extent = jnp.maximum(w.max(), q.max()) - jnp.minimum(w.min(), q.min())
    return jnp.where(b > 0, centre(g, b), -4 * jnp.square(extent) - 400 * epsilon)
