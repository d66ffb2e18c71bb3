"""Hard assignment of weights to levels: codes_i = argmax_j p_ij, by sorted thresholds.

In one dimension the weights of a level are an interval, so that k - 1 numbers say every code.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8


def thresholds(q: Float[Array, " k"], g: Float[Array, " k"]) -> Float[Array, " borders"]:
    """The k - 1 ascending borders between the cells of argmax_j (g_j - (w - q_j)^2).

        t_il = ((q_l^2 - q_i^2) - (g_l - g_i)) / (2 (q_l - q_i))
        T_j  = min_{l > j} max_{i <= j} t_il

    The levels i < l score alike at t_il, and a weight has a code above j exactly when it exceeds T_j.

    Args:
      q: levels, [k], weight, ascending; equal levels are allowed.
      g: their potentials, [k], weight squared; zeros give the nearest level.

    Returns:
      T, [k - 1], weight, ascending. A level whose cell is empty has T_{j-1} = T_j.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import thresholds
      >>> thresholds(jnp.array([-1.0, 0.0, 2.0]), jnp.zeros(3)).tolist()
      [-0.5, 1.0]
    """
    gap = q[None, :] - q[:, None]
    rise = g[None, :] - g[:, None]
    # (q_l^2 - q_i^2) / (2 (q_l - q_i)) is the midpoint; equal levels are told apart by their potentials alone.
    middle = (q[None, :] + q[:, None]) / 2
    apart = middle - rise / (2 * jnp.where(gap == 0, 1.0, gap))
    t = jnp.where(gap == 0, jnp.where(rise > 0, -jnp.inf, jnp.inf), apart)
    k = q.shape[0]
    index = jnp.arange(k)
    lower = index[:, None, None] <= index[None, None, : k - 1]
    upper = index[None, :, None] > index[None, None, : k - 1]
    highest = jnp.max(jnp.where(lower, t[:, :, None], -jnp.inf), axis=0)
    return jnp.min(jnp.where(upper[0], highest, jnp.inf), axis=0)


def hard_codes(w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"]) -> UInt8[Array, " n"]:
    """The code of each weight: the level that it takes with the highest probability.

        codes_i = argmax_j p_ij = #{j : w_i > T_j}

    By the `thresholds` T, k - 1 comparisons a weight; no array of size n x k. A weight on a border takes the lower
    level.

    Args:
      w: weights of one group, [n], any floating type; vmap over groups.
      q: levels, [k], weight, ascending; k at most 256.
      g: their potentials, [k], weight squared.

    Returns:
      The codes, [n], uint8.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import hard_codes
      >>> hard_codes(jnp.array([-3.0, 0.4, 0.6]), jnp.array([-1.0, 0.0, 1.0]), jnp.zeros(3)).tolist()
      [0, 1, 2]
    """
    borders = thresholds(q.astype(jnp.float32), g.astype(jnp.float32))
    return jnp.searchsorted(borders, w.astype(jnp.float32), side="left", method="compare_all").astype(jnp.uint8)


def occupancy(codes: UInt8[Array, " n"], k: int) -> Float[Array, " k"]:
    """The share of weights that have each code.

    Args:
      codes: codes, [n], below k.
      k: the number of levels.

    Returns:
      The shares, [k], float32, with sum 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import occupancy
      >>> occupancy(jnp.array([0, 2, 2, 2], jnp.uint8), 3).tolist()
      [0.25, 0.0, 0.75]
    """
    counts: Int[Array, " k"] = jnp.zeros(k, jnp.int32).at[codes.astype(jnp.int32)].add(1)
    return counts.astype(jnp.float32) / codes.shape[0]
