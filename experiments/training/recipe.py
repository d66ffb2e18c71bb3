"""From a config to the steps of training: the phases, their optimizers and their schedules."""

from collections.abc import Callable
from typing import Any

import optax

from experiments.config import Config
from mecq_jax.training import LossFn, Steps, float_steps, quantized_steps


def phases(config: Config) -> list[str]:
    """The phase of each epoch of quantized training, 'soft' or 'hard'."""
    return ["soft"] * config.soft_epochs + ["hard" if config.freezes else "soft"] * config.hard_epochs


def quantized_trainer(config: Config, loss_fn: LossFn, per_epoch: int) -> Steps:
    """The steps of the soft and hard phases at `per_epoch` steps an epoch; numbers of the config may be traced."""
    order = phases(config)
    soft_steps, hard_steps = (per_epoch * order.count(phase) for phase in ("soft", "hard"))
    return quantized_steps(loss_fn, soft_steps, hard_steps, **_numbers(config, config.learning_rate))


def float_trainer(config: Config, loss_fn: LossFn, steps: int, peak: float) -> Steps:
    """The steps of a float network."""
    return float_steps(loss_fn, steps, **_numbers(config, peak))


def _numbers(config: Config, peak: Any) -> dict[str, Any]:
    """The config's optimizers and numbers, by the names that they have in `quantized_steps`."""

    def decaying(decay: Any) -> Callable[[optax.Schedule], optax.GradientTransformation]:
        def make(schedule: optax.Schedule) -> optax.GradientTransformation:
            if config.optimizer == "adam":
                return optax.adamw(schedule, weight_decay=decay)
            return optax.chain(optax.add_decayed_weights(decay), optax.sgd(schedule, momentum=0.9, nesterov=True))

        return make

    return {
        "learning_rate": peak,
        "optimizer": decaying(config.weight_decay),
        "levels_optimizer": decaying(0.0),
        "levels_rate": config.levels_rate,
        "hard_rate": config.hard_rate,
        "warmup": config.warmup,
        "clip": config.clip,
        "temperature": (config.temperature_start, config.temperature_end),
        "hold": config.temperature_hold,
        "entropy_weight": config.entropy_weight,
    }
