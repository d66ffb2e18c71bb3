"""Numbers on a grid: multiples of a power of two, few enough that float32 computes with them without rounding.

A multiple of `unit` below 2^24 units is a float32, and so is every partial sum of such numbers. What is computed from
them by sums and products that stay below 2^24 units has one result, in any order, with or without fused operations.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LARGEST = 2**24  # float32 holds every integer up to here


class Range(NamedTuple):
    """What is known of an array for every input: multiples of `unit` (a power of two) within [low, high]."""

    unit: float
    low: float
    high: float

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(-self.low, self.high, 0.0)

    @property
    def size(self) -> float:
        """The largest magnitude in units."""
        return self.largest / self.unit


class Round(NamedTuple):
    """Rounding to multiples of `step` within [low, high] steps."""

    step: float
    low: float
    high: float

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Compute step clip(round(x / step), low, high), halves to the even neighbour."""
        low, high, step, back = map(np.float32, (self.low, self.high, self.step, 1 / self.step))
        return jnp.minimum(jnp.maximum(jnp.round(x * back), low), high) * step

    @property
    def range(self) -> Range:
        """Of what it gives."""
        return Range(self.step, self.low * self.step, self.high * self.step)


def power_above(x: float) -> float:
    """The smallest power of two that is at least x > 0; 1 for x = 0."""
    return float(2.0 ** np.ceil(np.log2(x))) if x > 0 else 1.0


def unit_of(x: np.ndarray) -> float:
    """The largest power of two of which every entry of a float32 array is a multiple; 1 if all are zero."""
    x = np.asarray(x, np.float32)
    fraction, exponent = np.frexp(x[x != 0])
    whole = np.abs(fraction * LARGEST).astype(np.int64)
    return float(np.min((whole & -whole) * 2.0 ** (exponent - 24.0), initial=np.inf)) if len(whole) else 1.0


def range_of(x: np.ndarray) -> Range:
    """The range of a known array."""
    return Range(unit_of(x), float(np.min(x, initial=0.0)), float(np.max(x, initial=0.0)))


def shortened(x: np.ndarray, largest: int, axis: int | None = None) -> Float[np.ndarray, "..."]:
    """Round x to integers of at most `largest`, times a power of two (one for each line along `axis`)."""
    x = np.asarray(x, np.float64)
    top = np.max(np.abs(x), axis=axis, keepdims=axis is not None, initial=0.0)
    step = 2.0 ** np.ceil(np.log2(np.where(top > 0, top, 1.0) / largest))
    return (np.round(x / step) * step).astype(np.float32)


def rounding(found: Range, values: np.ndarray, largest: int) -> Round | None:
    """The finest rounding to `largest` steps of either sign (or one, twice as fine) that reaches all values.

    None if the range needs no rounding.
    """
    if found.low >= 0:
        largest = 2 * largest + 1
    if found.size <= largest:
        return None
    step = max(power_above(float(np.max(np.abs(values), initial=0.0)) / largest), found.unit)
    return Round(step, 0.0 if found.low >= 0 else -float(largest), float(largest))
