"""Codebooks: the k starting levels of each group, ascending.

Levels are learnable; a codebook is only where they start. `lloyd_max` starts at the least squared error that k levels
can have on these weights, which for a Gaussian at 2 bits is 0.1175 var(w).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mecq_jax.quantizers._types import Groups, Levels

#: A function of groups [g, n] and the number k of levels, which gives levels [g, k].
Codebook = Callable[[Groups, int], Levels]


def quantile(w: Groups, k: int) -> Levels:
    """Means of the k equal-mass cells of each group.

        q_j = mean of the sorted weights in ranks [j n/k, (j+1) n/k)

    A rank cut by a border counts in both cells by its parts, so that k need not divide n and n may be below k.

    Args:
      w: weights, [g, n], any floating type.
      k: number of levels.

    Returns:
      Levels, [g, k], float32, ascending.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers import quantile
      >>> quantile(jnp.array([[0.0, 2.0, 4.0, 6.0]], jnp.float32), k=2)
      Array([[1., 5.]], dtype=float32)
    """
    n = w.shape[-1]
    ordered = jnp.sort(w.astype(jnp.float32), axis=-1)
    total = jnp.concatenate([jnp.zeros_like(ordered[:, :1]), jnp.cumsum(ordered, axis=-1)], axis=-1)
    border = jnp.arange(k + 1, dtype=jnp.float32) * (n / k)
    at_border = jax.vmap(lambda t: jnp.interp(border, jnp.arange(n + 1, dtype=jnp.float32), t))(total)
    return jnp.sort(jnp.diff(at_border, axis=-1) * (k / n), axis=-1)


def uniform(w: Groups, k: int) -> Levels:
    """The middles of k equal intervals from the least to the greatest weight of each group.

        q_j = min(w) + (max(w) - min(w)) (j + 1/2) / k

    Args:
      w: weights, [g, n], any floating type.
      k: number of levels.

    Returns:
      Levels, [g, k], float32, ascending.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers import uniform
      >>> uniform(jnp.array([[0.0, 1.0, 8.0]], jnp.float32), k=4)
      Array([[1., 3., 5., 7.]], dtype=float32)
    """
    w = w.astype(jnp.float32)
    low, high = w.min(axis=-1, keepdims=True), w.max(axis=-1, keepdims=True)
    return low + (high - low) * ((jnp.arange(k, dtype=jnp.float32) + 0.5) / k)[None]


def lloyd_max(w: Groups, k: int, iterations: int = 50) -> Levels:
    """Lloyd's fixed point from the quantile start: each level is the mean of the weights nearest to it.

    A level that attracts no weight stays where it is.

    Args:
      w: weights, [g, n], any floating type.
      k: number of levels.
      iterations: rounds of assignment and mean.

    Returns:
      Levels, [g, k], float32, ascending.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers import lloyd_max
      >>> lloyd_max(jnp.array([[0.0, 2.0, 4.0, 100.0]], jnp.float32), k=2).round()
      Array([[  2., 100.]], dtype=float32)

    Source: Lloyd, 1982, doi 10.1109/TIT.1982.1056489.
    """
    ordered = jnp.sort(w.astype(jnp.float32), axis=-1)
    n = ordered.shape[-1]
    # Prefix sums of centred weights: a float32 sum of n weights far from zero would lose the differences.
    centre = ordered.mean(axis=-1, keepdims=True)
    total = jnp.concatenate([jnp.zeros_like(centre), jnp.cumsum(ordered - centre, axis=-1)], axis=-1)

    def one_group(w: Float[Array, " n"], total: Float[Array, " borders"], q: Float[Array, " k"]) -> Float[Array, " k"]:
        def step(_: Int[Array, ""], q: Float[Array, " k"]) -> Float[Array, " k"]:
            cuts = jnp.searchsorted(w, (q[1:] + q[:-1]) / 2)
            cuts = jnp.concatenate([jnp.zeros(1, cuts.dtype), cuts, jnp.full(1, n, cuts.dtype)])
            count = jnp.diff(cuts)
            mean = jnp.diff(total[cuts]) / jnp.maximum(count, 1).astype(jnp.float32)
            return jnp.where(count > 0, mean, q)

        fixed: Float[Array, " k"] = jax.lax.fori_loop(0, iterations, step, q)
        return fixed

    levels = jax.vmap(one_group)(ordered - centre, total, quantile(w, k) - centre)
    return jnp.sort(levels + centre, axis=-1)


#: name -> codebook.
CODEBOOKS: dict[str, Codebook] = {"quantile": quantile, "lloyd_max": lloyd_max, "uniform": uniform}


def initial_levels(w: Groups, k: int, codebook: str | Codebook = "lloyd_max") -> Levels:
    """The levels that a codebook gives each group to start from.

    Args:
      w: weights, [g, n], any floating type.
      k: number of levels, 2 to 256.
      codebook: 'quantile', 'lloyd_max', 'uniform' (the keys of `CODEBOOKS`), or a function (w, k) -> levels.

    Returns:
      Levels, [g, k], float32, ascending.

    Raises:
      ValueError: if k is out of its bounds, or no codebook has that name.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers import initial_levels
      >>> initial_levels(jnp.array([[0.0, 1.0, 8.0]], jnp.float32), k=4, codebook="uniform")
      Array([[1., 3., 5., 7.]], dtype=float32)
    """
    if not 2 <= k <= 256:
        raise ValueError(f"k = {k} levels: k must be 2 to 256 (2**bits for 1 to 8 bits)")
    if isinstance(codebook, str):
        if codebook not in CODEBOOKS:
            raise ValueError(f"codebook {codebook!r} is not one of {sorted(CODEBOOKS)}")
        codebook = CODEBOOKS[codebook]
    return codebook(w, k)
