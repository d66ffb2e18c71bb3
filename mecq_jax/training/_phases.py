"""The phases of training by their numbers of steps: schedules, steps, and the loop over them."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import optax

from mecq_jax.training._optimizers import optimizers
from mecq_jax.training._schedules import cosine_phases, geometric_decay
from mecq_jax.training._sharding import Layout
from mecq_jax.training._steps import LossFn, Metrics, Steps, TrainState

Optimizer = Callable[[optax.Schedule], optax.GradientTransformation]


class Phases(NamedTuple):
    """Steps of each phase.

    Attributes:
      float_steps: of the float network; 0 for a model that is trained already.
      soft_steps: with soft weights and a falling temperature.
      hard_steps: with frozen codes.

    Example:
      >>> from mecq_jax.training import Phases
      >>> Phases.of(1_000)
      Phases(float_steps=500, soft_steps=375, hard_steps=125)
      >>> Phases.of(1_000, trained=True)
      Phases(float_steps=0, soft_steps=750, hard_steps=250)
    """

    float_steps: int
    soft_steps: int
    hard_steps: int

    @classmethod
    def of(cls, steps: int, *, trained: bool = False) -> "Phases":
        """Half of the steps float (none if the model is trained); of the rest three quarters soft, a quarter hard.

        Args:
          steps: of all phases together, at least 8.
          trained: whether the model is trained already.

        Raises:
          ValueError: if there are too few steps.
        """
        if steps < 8:
            raise ValueError(f"steps = {steps}: three phases need at least 8; a few hundred is a short training")
        float_steps = 0 if trained else steps // 2
        hard_steps = (steps - float_steps) // 4
        return cls(float_steps, steps - float_steps - hard_steps, hard_steps)


def quantized_steps(
    loss_fn: LossFn,
    soft_steps: int,
    hard_steps: int,
    *,
    learning_rate: Any = 1e-3,
    optimizer: Optimizer = optax.adamw,
    levels_optimizer: Optimizer = optax.adam,
    levels_rate: Any = 0.1,
    hard_rate: Any = 1.0,
    warmup: float = 0.0,
    clip: float | None = None,
    temperature: tuple[Any, Any] = (0.3, 0.01),
    hold: float = 0.9,
    entropy_weight: Any = 0.3,
) -> Steps:
    """The `Steps` of a soft and a hard phase, with schedules by their numbers of steps. Numbers may be traced.

    Args:
      loss_fn: (params, model_state, batch, rng) -> (loss, (model_state, scalars)).
      soft_steps: with soft weights.
      hard_steps: with frozen codes.
      learning_rate: peak of the weights' cosine.
      optimizer: schedule -> transformation of the weights.
      levels_optimizer: the same of the levels; it should decay nothing.
      levels_rate: the levels' rate, as a share of the weights'.
      hard_rate: peak of the hard phase, as a share of the first.
      warmup: share of the soft steps in which the rate rises.
      clip: bound on the global norm of the gradients; None is none.
      temperature: first and last, epsilon / var(w).
      hold: share of the soft steps in which the temperature falls.
      entropy_weight: lambda at the end of the soft phase, risen linearly.

    Returns:
      Steps for `run_phases`, or for a loop of one's choice.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.training import quantized_steps
      >>> steps = quantized_steps(lambda p, s, b, r: (jnp.sum(p["w"]), (s, {})), soft_steps=90, hard_steps=10)
      >>> round(float(steps.temperature(90)), 4)
      0.01
    """
    steps, warmup_steps = soft_steps + hard_steps, round(warmup * soft_steps)

    def schedule(share: Any) -> optax.Schedule:
        peak = learning_rate * share
        return cosine_phases(peak, steps, hard_steps, warmup_steps=warmup_steps, hard_peak=peak * hard_rate)

    both = optimizers(optimizer(schedule(1.0)), levels_optimizer(schedule(levels_rate)))
    return Steps(
        loss_fn=loss_fn,
        optimizer=both if clip is None else optax.chain(optax.clip_by_global_norm(clip), both),
        temperature=geometric_decay(*temperature, max(1, soft_steps), hold),
        entropy_weight=optax.linear_schedule(0.0, entropy_weight, max(1, soft_steps)),
    )


def float_steps(loss_fn: LossFn, steps: int, **recipe: Any) -> Steps:
    """The `Steps` of a float phase: as `quantized_steps`, with schedules that stay at 0, since nothing is assigned.

    Args:
      loss_fn: (params, model_state, batch, rng) -> (loss, (model_state, scalars)).
      steps: of the phase.
      recipe: numbers of `quantized_steps`; those of the assignment mean nothing here.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.training import float_steps
      >>> steps = float_steps(lambda p, s, b, r: (jnp.sum(p["w"]), (s, {})), 100, learning_rate=0.1)
      >>> float(steps.temperature(50))
      0.0
    """
    idle = optax.constant_schedule(0.0)
    return dataclasses.replace(quantized_steps(loss_fn, steps, 0, **recipe), temperature=idle, entropy_weight=idle)


def run_phases(
    steps: Steps,
    state: TrainState,
    phases: Sequence[str],
    batches: Iterator[Any],
    *,
    layout: Layout | None = None,
    each: Callable[[int, str, TrainState, Metrics], None] = lambda *_: None,
) -> TrainState:
    """The state after a step of each phase that `state.step` has not done; codes are frozen where the hard begins.

    Args:
      steps: the phases' steps and schedules.
      state: on the devices of `layout`; its buffers are taken over.
      phases: 'float', 'soft' or 'hard' for every step from the first.
      batches: one for every step that is left.
      layout: where state and batches lie; None is the default device.
      each: called after every step with (steps done, phase, state, metrics).

    Returns:
      The last state, with codes of its weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax import STE, Rule, quantize_tree
      >>> from mecq_jax.training import quantized_steps, run_phases
      >>> def loss_fn(params, model_state, batch, rng):
      ...     return jnp.mean(jnp.square(batch @ params["kernel"])), (model_state, {})
      >>> params = {"kernel": jnp.linspace(-1.0, 1.0, 16).reshape(4, 4)}
      >>> steps = quantized_steps(loss_fn, soft_steps=2, hard_steps=1)
      >>> state = steps.init(params, quantize_tree(params, [Rule("kernel", STE(bits=1))]))
      >>> int(run_phases(steps, state, ["soft", "soft", "hard"], iter([jnp.ones((2, 4))] * 3)).step)
      3
    """
    wanted = {phase: getattr(steps, f"{phase}_step") for phase in dict.fromkeys(phases)}
    place: Callable[[Any], Any] = (lambda batch: batch) if layout is None else layout.batch
    compiled = {
        phase: jax.jit(step, donate_argnums=0) if layout is None else layout.jit(step, state)
        for phase, step in wanted.items()
    }
    refresh = jax.jit(steps.refresh_codes, out_shardings=None if layout is None else layout.shardings(state))
    done = int(state.step)
    for i, phase in enumerate(phases[done:], done):
        if phase == "hard" and (i == 0 or phases[i - 1] != "hard"):
            state = refresh(state)
        state, metrics = compiled[phase](state, place(next(batches)))
        each(i + 1, phase, state, metrics)
    return refresh(state) if phases and phases[-1] == "soft" else state
