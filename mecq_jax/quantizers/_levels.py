"""Codebooks: the k starting levels of each group, ascending.

Levels are learnable; a codebook is only where they start. `lloyd_max` starts at the least squared error that k levels
can have on these weights, which for a Gaussian at 2 bits is 0.1175 var(w).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Codebook = Callable[[Float[Array, "g n"], int], Float[Array, "g k"]]


def quantile(w: Float[Array, "g n"], k: int) -> Float[Array, "g k"]:
    """Means of the k equal-mass cells: q_j = mean of the sorted weights in ranks [j n/k, (j+1) n/k).

    A rank cut by a border counts in both cells by its parts, so that k need not divide n and n may be below k.
    """
    n = w.shape[-1]
    ordered = jnp.sort(w.astype(jnp.float32), axis=-1)
    total = jnp.concatenate([jnp.zeros_like(ordered[:, :1]), jnp.cumsum(ordered, axis=-1)], axis=-1)
    border = jnp.arange(k + 1, dtype=jnp.float32) * (n / k)
    at_border = jax.vmap(lambda t: jnp.interp(border, jnp.arange(n + 1, dtype=jnp.float32), t))(total)
    return jnp.sort(jnp.diff(at_border, axis=-1) * (k / n), axis=-1)


def uniform(w: Float[Array, "g n"], k: int) -> Float[Array, "g k"]:
    """k levels at equal steps from min(w) to max(w), at the middle of k equal intervals."""
    w = w.astype(jnp.float32)
    low, high = w.min(axis=-1, keepdims=True), w.max(axis=-1, keepdims=True)
    return low + (high - low) * ((jnp.arange(k, dtype=jnp.float32) + 0.5) / k)[None]


def lloyd_max(w: Float[Array, "g n"], k: int, iterations: int = 50) -> Float[Array, "g k"]:
    """Lloyd's fixed point from the quantile start: each level is the mean of the weights nearest to it.

    A level that attracts no weight stays where it is. Source: Lloyd, 1982, doi 10.1109/TIT.1982.1056489.
    """
    ordered = jnp.sort(w.astype(jnp.float32), axis=-1)
    n = ordered.shape[-1]
    # Prefix sums of centred weights: a float32 sum of n weights far from zero would lose the differences.
    centre = ordered.mean(axis=-1, keepdims=True)
    total = jnp.concatenate([jnp.zeros_like(centre), jnp.cumsum(ordered - centre, axis=-1)], axis=-1)

    def one_group(w, total, q):
        def step(_, q):
            cuts = jnp.searchsorted(w, (q[1:] + q[:-1]) / 2)
            cuts = jnp.concatenate([jnp.zeros(1, cuts.dtype), cuts, jnp.full(1, n, cuts.dtype)])
            count = jnp.diff(cuts)
            mean = jnp.diff(total[cuts]) / jnp.maximum(count, 1).astype(jnp.float32)
            return jnp.where(count > 0, mean, q)

        return jax.lax.fori_loop(0, iterations, step, q)

    levels = jax.vmap(one_group)(ordered - centre, total, quantile(w, k) - centre)
    return jnp.sort(levels + centre, axis=-1)


CODEBOOKS: dict[str, Codebook] = {"quantile": quantile, "lloyd_max": lloyd_max, "uniform": uniform}


def initial_levels(w: Float[Array, "g n"], k: int, codebook: str | Codebook = "lloyd_max") -> Float[Array, "g k"]:
    """Starting levels [g, k], float32 and ascending, for groups `w`.

    Args:
      w: groups of weights.
      k: number of levels, 2 to 256.
      codebook: 'quantile', 'lloyd_max', 'uniform', or a function (w, k) -> levels.
    """
    if not 2 <= k <= 256:
        raise ValueError(f"k = {k} levels: k must be 2 to 256 (2**bits for 1 to 8 bits)")
    if isinstance(codebook, str):
        if codebook not in CODEBOOKS:
            raise ValueError(f"codebook {codebook!r} is not one of {sorted(CODEBOOKS)}")
        codebook = CODEBOOKS[codebook]
    return codebook(w, k)
