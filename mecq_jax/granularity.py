"""Groups: the sets of weights that share one table of levels.

A granularity says how an array is cut into groups; `to_groups` lays them out as a matrix [g, n] (g groups of n
weights each) and `from_groups` is its exact inverse.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Shaped


@dataclasses.dataclass(frozen=True)
class PerTensor:
    """One group: every weight of the array shares the same levels.

    Example:
      >>> from mecq_jax.granularity import PerTensor, group_shape
      >>> group_shape((3, 3, 16, 32), PerTensor())
      (1, 4608)
    """


@dataclasses.dataclass(frozen=True)
class PerChannel:
    """One group for each index of `axis`.

    Attributes:
      axis: the axis of the channels, negative from the end; the last one has the output features of a Flax kernel.

    Example:
      >>> from mecq_jax.granularity import PerChannel, group_shape
      >>> group_shape((3, 3, 16, 32), PerChannel())
      (32, 144)
    """

    axis: int = -1


@dataclasses.dataclass(frozen=True)
class PerBlock:
    """Groups of `size` consecutive weights within each channel.

    Attributes:
      size: weights of a group; it divides the weights of a channel.
      axis: the axis of the channels, negative from the end.

    Example:
      >>> from mecq_jax.granularity import PerBlock, group_shape
      >>> group_shape((256, 32), PerBlock(64))
      (128, 64)
    """

    size: int
    axis: int = -1


#: Any of the three.
Granularity = PerTensor | PerChannel | PerBlock


def group_shape(shape: Sequence[int], granularity: Granularity) -> tuple[int, int]:
    """The number of groups of an array, and of the weights in each.

    Args:
      shape: the array's shape.
      granularity: how it is cut.

    Returns:
      (g, n), with g n the array's size.

    Raises:
      ValueError: if the array is empty, the axis is out of range, or a block does not divide a channel.

    Example:
      >>> from mecq_jax.granularity import PerBlock, group_shape
      >>> group_shape((2, 6), PerBlock(3, axis=0))
      (4, 3)
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
    """Lay out an array as groups: channels first, then the remaining axes in order, then cut into blocks.

    Args:
      x: an array of any shape and type.
      granularity: how it is cut.

    Returns:
      The groups, [g, n].

    Raises:
      ValueError: as `group_shape`.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.granularity import PerChannel, to_groups
      >>> to_groups(jnp.arange(6).reshape(2, 3), PerChannel()).tolist()
      [[0, 3], [1, 4], [2, 5]]
    """
    shape = group_shape(x.shape, granularity)
    if not isinstance(granularity, PerTensor):
        x = jnp.moveaxis(x, granularity.axis, 0)
    return x.reshape(shape)


def from_groups(groups: Shaped[Array, "g n"], shape: Sequence[int], granularity: Granularity) -> Shaped[Array, "..."]:
    """Lay out groups as the array that they were cut from: the inverse of `to_groups`.

    Args:
      groups: groups, [g, n].
      shape: the array's shape.
      granularity: how it was cut.

    Returns:
      The array, of `shape`.

    Raises:
      ValueError: if [g, n] is not what this shape and granularity give, or as `group_shape`.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.granularity import PerChannel, from_groups
      >>> from_groups(jnp.array([[0, 3], [1, 4], [2, 5]]), (2, 3), PerChannel()).tolist()
      [[0, 1, 2], [3, 4, 5]]
    """
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
    """Cut an array into parts along each axis, and put the axes of the parts before those of what they hold.

        [a, b, ...]  ->  [s, t, ..., a/s, b/t, ...]

    Flattened, each part is contiguous, so that weights split over devices along any axes stay where they are.

    Args:
      x: an array.
      shards: the number of parts along each axis, a divisor of its size.

    Returns:
      The parts, an array of twice as many axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.granularity import shards_first
      >>> shards_first(jnp.arange(4).reshape(1, 4), (1, 2)).reshape(2, 2).tolist()
      [[0, 1], [2, 3]]
    """
    cut = [size for d, s in zip(x.shape, shards, strict=True) for size in (s, d // s)]
    rank = 2 * x.ndim
    return x.reshape(cut).transpose([*range(0, rank, 2), *range(1, rank, 2)])


def shards_back(x: Shaped[Array, "..."], shape: Sequence[int], shards: Sequence[int]) -> Shaped[Array, "..."]:
    """Put the parts back where `shards_first` took them from.

    Args:
      x: the parts, in any shape of the same order.
      shape: the array's shape.
      shards: the number of parts along each axis.

    Returns:
      The array, of `shape`.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.granularity import shards_back, shards_first
      >>> x = jnp.arange(24).reshape(4, 6)
      >>> bool((shards_back(shards_first(x, (2, 3)).reshape(24), (4, 6), (2, 3)) == x).all())
      True
    """
    rank = len(shape)
    parts = x.reshape([*shards, *(d // s for d, s in zip(shape, shards, strict=True))])
    return parts.transpose([i for axis in range(rank) for i in (axis, rank + axis)]).reshape(tuple(shape))


def describe(granularity: Granularity) -> str:
    """A short name of a granularity, for tables.

    Args:
      granularity: one of the three.

    Returns:
      'tensor', 'channel(AXIS)' or 'block(SIZE, AXIS)'.

    Raises:
      TypeError: if it is none of the three.

    Example:
      >>> from mecq_jax.granularity import PerBlock, describe
      >>> describe(PerBlock(64))
      'block(64, -1)'
    """
    match granularity:
        case PerTensor():
            return "tensor"
        case PerChannel(axis):
            return f"channel({axis})"
        case PerBlock(size, axis):
            return f"block({size}, {axis})"
    raise TypeError(f"{granularity!r} is not PerTensor, PerChannel or PerBlock")


def to_spec(granularity: Granularity) -> dict[str, int | str]:
    """A granularity as plain JSON data, as files keep it; the inverse is `from_spec`.

    Args:
      granularity: one of the three.

    Returns:
      Its class as 'kind', and its fields.

    Example:
      >>> from mecq_jax.granularity import PerBlock, to_spec
      >>> to_spec(PerBlock(64))
      {'kind': 'PerBlock', 'size': 64, 'axis': -1}
    """
    return {"kind": type(granularity).__name__, **dataclasses.asdict(granularity)}


def from_spec(spec: Mapping[str, Any]) -> Granularity:
    """A granularity from the data of `to_spec`.

    Args:
      spec: its class as 'kind', and its fields.

    Returns:
      The granularity.

    Raises:
      ValueError: if the kind is none of the three.

    Example:
      >>> from mecq_jax.granularity import from_spec
      >>> from_spec({"kind": "PerChannel", "axis": -1})
      PerChannel(axis=-1)
    """
    kinds = {c.__name__: c for c in (PerTensor, PerChannel, PerBlock)}
    fields = dict(spec)
    kind = fields.pop("kind", None)
    if kind not in kinds:
        raise ValueError(f"granularity kind {kind!r} is not one of {sorted(kinds)}")
    return kinds[kind](**fields)
