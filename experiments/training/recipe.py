"""From a config to a trainer: the phases, their learning rates, and the schedules of epsilon and lambda."""

import optax

from experiments.config import Config
from mecq_jax.params import Plan
from mecq_jax.training import LossFn, Steps, geometric_decay, optimizers


def phases(config: Config) -> list[str]:
    """The phase of each epoch of quantized training, 'soft' or 'hard'."""
    return ["soft"] * config.soft_epochs + ["hard" if config.freezes else "soft"] * config.hard_epochs


def make_optimizer(config: Config, steps: int, peak: float, hard_steps: int = 0) -> optax.GradientTransformation:
    """Weights at `peak` with decay, levels at `levels_rate` of it without; cosines to 0 over `steps`.

    The last `hard_steps` have a cosine of their own, from `hard_rate` of the peak: with the codes frozen the levels,
    norms and float layers can still make good much of what hardening cost, but not at the end of a spent schedule.
    """

    def one(rate: float, decay: float) -> optax.GradientTransformation:
        rise = round(config.warmup * (steps - hard_steps))
        schedule = optax.cosine_decay_schedule(rate, max(steps - hard_steps - rise, 1))
        if rise:
            schedule = optax.join_schedules([optax.linear_schedule(0.0, rate, rise), schedule], [rise])
        if hard_steps:
            last = optax.cosine_decay_schedule(rate * config.hard_rate, hard_steps)
            schedule = optax.join_schedules([schedule, last], [steps - hard_steps])
        if config.optimizer == "adam":
            return optax.adamw(schedule, weight_decay=decay)
        return optax.chain(optax.add_decayed_weights(decay), optax.sgd(schedule, momentum=0.9, nesterov=True))

    both = optimizers(one(peak, config.weight_decay), one(peak * config.levels_rate, 0.0))
    return both if config.clip is None else optax.chain(optax.clip_by_global_norm(config.clip), both)


def quantized_trainer(config: Config, plan: Plan, loss_fn: LossFn, per_epoch: int) -> Steps:
    """The trainer of the soft and hard phases at `per_epoch` steps an epoch; numbers of the config may be traced."""
    order = phases(config)
    soft_steps = max(1, per_epoch * order.count("soft"))
    return Steps(
        plan=plan,
        loss_fn=loss_fn,
        optimizer=make_optimizer(config, per_epoch * len(order), config.learning_rate, per_epoch * order.count("hard")),
        temperature=geometric_decay(
            config.temperature_start, config.temperature_end, soft_steps, config.temperature_hold
        ),
        entropy_weight=optax.linear_schedule(0.0, config.entropy_weight, soft_steps),
    )


def float_trainer(config: Config, loss_fn: LossFn, steps: int, peak: float) -> Steps:
    """The trainer of a float network."""
    return Steps(
        plan=Plan({}, {}),
        loss_fn=loss_fn,
        optimizer=make_optimizer(config, steps, peak),
        temperature=optax.constant_schedule(0.0),
        entropy_weight=optax.constant_schedule(0.0),
    )
