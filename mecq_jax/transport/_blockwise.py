"""Passes over the weights of a group by blocks, so that what is computed per weight and level never exists whole.

    sums, maps = map_reduce_blocks(f, arrays, k)          f(blocks) -> (sums, maps) on a block of each array

A block holds about `BUDGET` (weight, level) pairs: on a CPU what stays in cache, elsewhere what keeps the device busy.
Under jit with sharded weights each device walks through its part alone: the blocks are cut inside `device_shards` equal
parts, one for each device, and only the sums, k or k x k numbers, are reduced over devices, once a pass.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# (weight, level) pairs of a block: float32 temporaries of 128 KiB on a CPU, of 64 MiB on an accelerator.
BUDGET = {"cpu": 2**15}
ACCELERATOR_BUDGET = 2**24
Blocks = tuple[Array, ...]
Sums = TypeVar("Sums")
Out = TypeVar("Out")


def budget() -> int:
    """(weight, level) pairs of a block on this process's backend."""
    return BUDGET.get(jax.default_backend(), ACCELERATOR_BUDGET)


def device_shards(n: int) -> int:
    """Parts that a group of n weights is cut into so that each device can keep to one: 1 or the device count."""
    devices = jax.device_count()
    return devices if n % devices == 0 and n >= 1024 * devices else 1


def block_count(n: int, size: int) -> int:
    """Blocks of at most `size` that n is cut into; rather up to twice as many than a remainder."""
    least = -(-n // size)
    return next((t for t in range(least, 2 * least + 1) if n % t == 0), least)


def map_reduce_blocks(f: Callable[..., tuple[Sums, Blocks]], arrays: Blocks, k: int) -> tuple[Sums, Blocks]:
    """Sums and maps of a function over blocks of `arrays`, as if f(*arrays) had been called.

    Args:
      f: (block, ...) -> (sums, maps): sums, a pytree that adds up over blocks; maps, a tuple of arrays of the block's
        length. It may be differentiated, and is recomputed block by block in the backward pass.
      arrays: arrays [n] of one group.
      k: numbers that f holds for each weight.
    """
    n, size = arrays[0].shape[0], max(64, budget() // k)
    parts = device_shards(n)
    count = block_count(n // parts, size)
    if count == 1 and parts == 1:
        out: tuple[Sums, Blocks] = jax.checkpoint(f)(*arrays)
        return out
    length = n // parts // count
    whole = parts * count * length
    cut = tuple(jnp.moveaxis(x[:whole].reshape(parts, count, length), 1, 0) for x in arrays)
    sums, maps = _scan(f, cut)
    maps = tuple(jnp.moveaxis(y, 0, 1).reshape(whole) for y in maps)
    if whole < n:
        last, rest = f(*(x[whole:] for x in arrays))
        sums = jax.tree.map(jnp.add, sums, last)
        maps = tuple(jnp.concatenate(pair) for pair in zip(maps, rest, strict=True))
    return sums, maps


def _scan(f: Callable[..., tuple[Sums, Blocks]], cut: Blocks) -> tuple[Sums, Blocks]:
    """Scan over the leading axis of `cut` [count, parts, length], each part for itself; sums by Kahan's method.

    With ten thousand blocks a plain float32 sum would lose three digits.
    """

    @jax.checkpoint
    def step(carry: tuple[Sums, Sums], blocks: Blocks) -> tuple[tuple[Sums, Sums], Blocks]:
        total, lost = carry
        value, maps = _each(f)(*blocks)
        value = jax.tree.map(jnp.subtract, value, lost)
        new = jax.tree.map(jnp.add, total, value)
        lost = jax.tree.map(lambda n, t, v: (n - t) - v, new, total, value)
        return (new, lost), maps

    shapes = jax.eval_shape(_each(f), *(x[0] for x in cut))[0]
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (sums, _), maps = jax.lax.scan(step, (zero, zero), cut)
    return jax.tree.map(lambda s: s.sum(axis=0), sums), maps


def _each(f: Callable[..., Out]) -> Callable[..., Out]:
    """Vmap, but without a batch of one: XLA on CPU does not vectorise sums over levels behind a leading axis."""

    def call(*args: Any) -> Out:
        if jax.tree.leaves(args)[0].shape[0] > 1:
            many: Out = jax.vmap(f)(*args)
            return many
        one: Out = jax.tree.map(lambda y: y[None], f(*jax.tree.map(lambda x: x[0], args)))
        return one

    return call


def sum_weights(x: Float[Array, "... n"]) -> Float[Array, "..."]:
    """Sums over the last axis, as a product with ones: XLA's sums along the contiguous axis are not vectorised."""
    return jnp.dot(x, jnp.ones(x.shape[-1], x.dtype), precision=jax.lax.Precision.HIGHEST)


def sum_levels(p: Float[Array, "k n"], x: Float[Array, " k"] | None = None) -> Float[Array, " n"]:
    """Sums over j of x_j p_ji, x = 1 if None; on a CPU as a product, which takes half the time of XLA's sum."""
    if jax.default_backend() == "cpu":
        return jnp.dot(jnp.ones(p.shape[0], p.dtype) if x is None else x, p, precision=jax.lax.Precision.HIGHEST)
    return (p if x is None else p * x[:, None]).sum(axis=0)


def map_groups(f: Callable[..., Out], arrays: tuple[Any, ...], n: int, k: int) -> Out:
    """Map a function of one group over many, as many groups at a time as fit a block.

    It computes what `jax.vmap(f)(*arrays)` computes, without its temporaries for all groups at once.

    Args:
      f: a function of one group.
      arrays: the arguments of f, pytrees whose leaves are [groups, ...].
      n: weights of a group.
      k: levels, or whatever else f holds for each weight; n x k numbers of it make a group's temporaries.

    Returns:
      What f returns, its leaves [groups, ...].

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import hard_codes, map_groups
      >>> w, q = jnp.array([[-1.0, 2.0], [3.0, 7.0]]), jnp.array([[-1.0, 1.0], [2.0, 8.0]])
      >>> map_groups(hard_codes, (w, q, jnp.zeros((2, 2))), n=2, k=2).tolist()
      [[0, 1], [0, 1]]
    """
    groups = jax.tree.leaves(arrays)[0].shape[0]
    together = max(1, budget() // (min(n, max(64, budget() // k)) * k))
    if together >= groups:
        return _each(f)(*arrays)
    parts = jax.device_count() if groups % jax.device_count() == 0 else 1
    cut = jax.tree.map(lambda x: x.reshape(parts, groups // parts, *x.shape[1:]), arrays)
    size = together if together > 1 else None

    def walk(*part: Any) -> Out:
        mapped: Out = jax.lax.map(lambda args: f(*args), part, batch_size=size)
        return mapped

    out: Out = jax.tree.map(lambda y: y.reshape(groups, *y.shape[2:]), _each(walk)(*cut))
    return out


def subsample(w: Float[Array, " n"], size: int) -> Float[Array, "parts m"]:
    """About `size` of the weights, sorted, an equal number from each device's part; all of them if n <= size.

    One weight is taken at a scattered place of each stretch, since a fixed stride would pick always the same channels.
    """
    n = w.shape[0]
    parts = device_shards(n)
    w = w.reshape(parts, n // parts)
    stretch = max(1, n // size)
    m = w.shape[1] // stretch
    if stretch > 1:
        place = jnp.arange(m, dtype=jnp.uint32)
        scatter = ((place * jnp.uint32(2654435761)) >> 8) % jnp.uint32(stretch)
        w = w[:, place * jnp.uint32(stretch) + scatter]
    return jnp.sort(w, axis=1)
