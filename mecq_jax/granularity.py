"""Groups: the sets of weights that share one codebook.

A granularity says how an array is cut into groups; `to_groups` lays them out as a matrix [g, n] (g groups of n
weights each) and `from_groups` is its exact inverse.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Shaped


@dataclasses.dataclass(frozen=True)
class PerTensor:
    """One group: every weight of the array shares the same levels."""


@dataclasses.dataclass(frozen=True)
class PerChannel:
    """One group for each index of `axis` (the output features of a Flax kernel are its last axis)."""

    axis: int = -1


@dataclasses.dataclass(frozen=True)
class PerBlock:
    """Groups of `size` consecutive weights within each channel of `axis`; `size` divides a channel's weights."""

    size: int
    axis: int = -1


Granularity = PerTensor | PerChannel | PerBlock


def group_shape(shape: Sequence[int], granularity: Granularity) -> tuple[int, int]:
    """(g, n) for an array of `shape`.

    Raises:
      ValueError: if the array is empty, the axis is out of range, or a block does not divide a channel.
    """
    shape = tuple(shape)
    size = math.prod(shape)
    if size == 0:
        raise ValueError(f"an array of shape {shape} holds no weights; exclude it by a rule")
    if isinstance(granularity, PerTensor):
        return 1, size
    if not -len(shape) <= granularity.axis < len(shape):
        raise ValueError(
            f"axis {granularity.axis} of {granularity} is outside an array of shape {shape}; "
            f"choose one in [{-len(shape)}, {len(shape)})"
        )
    channels = shape[granularity.axis]
    per_channel = size // channels
    if isinstance(granularity, PerChannel):
        return channels, per_channel
    block = granularity.size
    if block < 1 or per_channel % block:
        near = [d for d in range(1, per_channel + 1) if per_channel % d == 0]
        near.sort(key=lambda d: abs(d - block))
        raise ValueError(
            f"a block of {block} does not divide the {per_channel} weights of each channel of shape {shape}; "
            f"the nearest sizes that do are {sorted(near[:3])}"
        )
    return size // block, block


def to_groups(x: Shaped[Array, "..."], granularity: Granularity) -> Shaped[Array, "g n"]:
    """Lay out `x` as groups [g, n]: channels first, then the remaining axes in order, then cut into blocks."""
    shape = group_shape(x.shape, granularity)
    if not isinstance(granularity, PerTensor):
        x = jnp.moveaxis(x, granularity.axis, 0)
    return x.reshape(shape)


def from_groups(groups: Shaped[Array, "g n"], shape: Sequence[int], granularity: Granularity) -> Shaped[Array, "..."]:
    """The inverse of `to_groups` for an array of `shape`."""
    shape = tuple(shape)
    expected = group_shape(shape, granularity)
    if groups.shape != expected:
        raise ValueError(f"groups of shape {groups.shape} do not fit {shape} {granularity}: need {expected}")
    if isinstance(granularity, PerTensor):
        return groups.reshape(shape)
    axis = granularity.axis % len(shape)
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return jnp.moveaxis(groups.reshape(moved), 0, axis)


def shards_first(x: Shaped[Array, "..."], shards: Sequence[int]) -> Shaped[Array, "..."]:
    """[a, b, ...] cut into `shards` parts along each axis, the parts before what they hold: [s, t, ..., a/s, b/t, ...].

    Flattened, each part is contiguous, so that weights split over devices along any axes stay where they are.
    """
    cut = [size for d, s in zip(x.shape, shards, strict=True) for size in (s, d // s)]
    rank = 2 * x.ndim
    return x.reshape(cut).transpose([*range(0, rank, 2), *range(1, rank, 2)])


def shards_back(x: Shaped[Array, "..."], shape: Sequence[int], shards: Sequence[int]) -> Shaped[Array, "..."]:
    """The inverse of `shards_first` for an array of `shape`, from any shape of the same order."""
    rank = len(shape)
    parts = x.reshape([*shards, *(d // s for d, s in zip(shape, shards, strict=True))])
    return parts.transpose([i for axis in range(rank) for i in (axis, rank + axis)]).reshape(tuple(shape))


def describe(granularity: Granularity) -> str:
    """A short name for tables: 'tensor', 'channel(-1)', 'block(64, -1)'."""
    match granularity:
        case PerTensor():
            return "tensor"
        case PerChannel(axis):
            return f"channel({axis})"
        case PerBlock(size, axis):
            return f"block({size}, {axis})"
    raise TypeError(f"{granularity!r} is not PerTensor, PerChannel or PerBlock")


def to_spec(granularity: Granularity) -> dict[str, int | str]:
    """The granularity as plain JSON data, for files; inverse: `from_spec`."""
    return {"kind": type(granularity).__name__, **dataclasses.asdict(granularity)}


def from_spec(spec: dict) -> Granularity:
    """The granularity from `to_spec`'s data."""
    kinds = {c.__name__: c for c in (PerTensor, PerChannel, PerBlock)}
    fields = dict(spec)
    kind = fields.pop("kind", None)
    if kind not in kinds:
        raise ValueError(f"granularity kind {kind!r} is not one of {sorted(kinds)}")
    return kinds[kind](**fields)
