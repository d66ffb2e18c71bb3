"""Schedules of the temperature."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array


def geometric_decay(start: float | Array, end: float | Array, steps: int, hold: float = 0.9) -> optax.Schedule:
    """temperature(t) = start (end/start)^(t / (hold steps)), then `end`: a fall over the first `hold` of `steps`.

    start and end may be traced, to train runs together that differ in them; numbers are checked.
    """
    if not all(isinstance(x, jax.Array) or x > 0 for x in (start, end)):
        raise ValueError(f"temperature from {start} to {end}: both must be above 0 (0.01 is small)")
    if steps < 1 or not 0 < hold <= 1:
        raise ValueError(f"steps = {steps} must be at least 1 and hold = {hold} in (0, 1]")

    def schedule(count):
        share = jnp.minimum(jnp.asarray(count, jnp.float32) / max(1, round(hold * steps)), 1.0)
        return start * (end / start) ** share

    return schedule
