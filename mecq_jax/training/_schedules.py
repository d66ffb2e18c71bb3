"""Schedules of the temperature and of learning rates over the phases."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array


def geometric_decay(start: float | Array, end: float | Array, steps: int, hold: float = 0.9) -> optax.Schedule:
    """A fall from `start` to `end` over the first `hold` of `steps`, then `end`.

        temperature(t) = start (end / start)^min(t / (hold steps), 1)

    Args:
      start: temperature, epsilon / var(w), above 0; it may be traced, as `end`, to train runs together that differ in
        it (numbers alone are checked).
      end: temperature, above 0.
      steps: of the soft phase, at least 1.
      hold: share of the steps in which it falls, in (0, 1].

    Returns:
      A schedule of optax: step -> temperature.

    Raises:
      ValueError: if a number is out of its range.

    Example:
      >>> from mecq_jax.training import geometric_decay
      >>> temperature = geometric_decay(0.3, 0.003, steps=100, hold=0.5)
      >>> [round(float(temperature(step)), 4) for step in (0, 25, 50, 99)]
      [0.3, 0.03, 0.003, 0.003]
    """
    if not all(isinstance(x, jax.Array) or x > 0 for x in (start, end)):
        raise ValueError(f"temperature from {start} to {end}: both must be above 0 (0.01 is small)")
    if steps < 1 or not 0 < hold <= 1:
        raise ValueError(f"steps = {steps} must be at least 1 and hold = {hold} in (0, 1]")

    def schedule(count: jax.typing.ArrayLike) -> Array:
        share = jnp.minimum(jnp.asarray(count, jnp.float32) / max(1, round(hold * steps)), 1.0)
        return jnp.asarray(start * (end / start) ** share)

    return schedule


def cosine_phases(
    peak: float | Array,
    steps: int,
    hard_steps: int = 0,
    *,
    warmup_steps: int = 0,
    hard_peak: float | Array | None = None,
) -> optax.Schedule:
    """A linear rise to `peak` and a cosine to 0, then for the hard phase another cosine from `hard_peak`.

    With the codes frozen the levels, norms and float layers can still make good much of what hardening cost, but not at
    the end of a spent schedule.

    Args:
      peak: learning rate; may be traced.
      steps: of all phases together.
      hard_steps: the last of them, with frozen codes.
      warmup_steps: in which the rate rises.
      hard_peak: where the hard phase starts; None is `peak`.

    Returns:
      A schedule of optax: step -> learning rate.

    Example:
      >>> from mecq_jax.training import cosine_phases
      >>> rate = cosine_phases(1.0, steps=100, hard_steps=20, hard_peak=0.5)
      >>> [round(float(rate(step)), 2) for step in (0, 40, 80, 90)]
      [1.0, 0.5, 0.5, 0.25]
    """
    soft_steps = steps - hard_steps
    schedule = optax.cosine_decay_schedule(peak, max(soft_steps - warmup_steps, 1))
    if warmup_steps:
        schedule = optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), schedule], [warmup_steps])
    if hard_steps:
        last = optax.cosine_decay_schedule(peak if hard_peak is None else hard_peak, hard_steps)
        schedule = optax.join_schedules([schedule, last], [soft_steps])
    return schedule
