"""Hard assignment of weights to levels: codes_i = argmax_j p_ij, by sorted thresholds."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8


def thresholds(q: Float[Array, " k"], g: Float[Array, " k"]) -> Float[Array, " borders"]:
    """The k - 1 ascending borders of the cells of argmax_j (g_j - (w - q_j)^2).

    Levels i < l are level at t_il = ((q_l^2 - q_i^2) - (g_l - g_i)) / (2 (q_l - q_i)), and a weight has a code above
    j exactly when it exceeds T_j = min_{l > j} max_{i <= j} t_il. A level whose cell is empty has T_{j-1} = T_j.
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
    """argmax_j p_ij for each weight, by the thresholds: k comparisons a weight and no array of size n x k.

    A weight on a border takes the lower level.
    """
    borders = thresholds(q.astype(jnp.float32), g.astype(jnp.float32))
    return jnp.searchsorted(borders, w.astype(jnp.float32), side="left", method="compare_all").astype(jnp.uint8)


def occupancy(codes: UInt8[Array, " n"], k: int) -> Float[Array, " k"]:
    """The share of weights that take each level."""
    counts: Int[Array, " k"] = jnp.zeros(k, jnp.int32).at[codes.astype(jnp.int32)].add(1)
    return counts.astype(jnp.float32) / codes.shape[0]
