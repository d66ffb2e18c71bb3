"""Quantization of a trained network's weights: by rounding, by transport, and by a short fine-tune.

q = round_to_nearest(params, rules)            # rules with STE quantizers: equally spaced levels
q = transport_weights(params, rules)           # rules with MEC quantizers
model_state = training.reestimate(loss_fn, q.dense(params), model_state, batches, rng)
q, params, model_state = fine_tune(task, config)
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.config import Config
from experiments.tasks.base import Batch, Task
from experiments.training import recipe
from mecq_jax.granularity import to_groups
from mecq_jax.params import (
    Codes,
    Plan,
    QuantTree,
    Rule,
    StateTree,
    apply_codes,
    codes_tree,
    harden_tree,
    leaves_by_path,
    make_plan,
    quantize_tree,
)
from mecq_jax.quantizers import MEC
from mecq_jax.quantizers.baselines import STE
from mecq_jax.training import Metrics, Steps, TrainState

BOUNDS = ("absmax", "least_squares")
SHARES = 100  # bounds that are tried, as equal parts of the largest magnitude


class Quantized(NamedTuple):
    """Levels and codes of a parameter tree, as `tree` names them."""

    plan: Plan
    quant: QuantTree
    state: StateTree
    codes: Codes

    def dense(self, params: Any) -> Any:
        """`params` with levels[codes] in place of what is quantized."""
        return apply_codes(self.plan, params, self.quant, self.state, self.codes)

    def hard(self, params: Any) -> dict[str, Any]:
        """Every leaf as it ships, for `artifact.save`."""
        return harden_tree(self.plan, params, self.quant, self.state, self.codes)


def joined(one: Quantized, other: Quantized) -> Quantized:
    """What either says of the leaves of one tree; no leaf may be in both."""
    if both := set(one.plan.quantizers) & set(other.plan.quantizers):
        raise ValueError(f"{sorted(both)} would be quantized twice; leave them to one of the two sets of rules")
    quantizers = {**one.plan.quantizers, **other.plan.quantizers}
    skipped = {path: why for path, why in one.plan.skipped.items() if path not in quantizers}
    plan = Plan(quantizers, skipped, {**one.plan.shards, **other.plan.shards})
    return Quantized(plan, one.quant | other.quant, one.state | other.state, one.codes | other.codes)


def round_to_nearest(params: Any, rules: Sequence[Rule], bound: str = "absmax") -> Quantized:
    """The nearest of k levels a (2 j + 1 - k) / k, j = 0 to k - 1, of each group of weights; nothing is trained.

    Args:
      params: a tree of arrays.
      rules: with `STE` quantizers, whose k and granularity count.
      bound: a is max|w| ('absmax'), or that of its `SHARES` equal parts with the least |w - w^|^2 ('least_squares').
    """
    if bound not in BOUNDS:
        raise ValueError(f"bound {bound!r} is not one of {BOUNDS}")
    _only(STE, make_plan(params, rules))
    plan, quant, state = quantize_tree(params, rules)
    if bound == "least_squares":
        leaves = leaves_by_path(params)
        state = {path: {"bound": least_squares_bound(q, leaves[path])} for path, q in plan.quantizers.items()}
    return _hardened(plan, params, quant, state)


def transport_weights(params: Any, rules: Sequence[Rule], temperature: float = 1e-3) -> Quantized:
    """Each weight's most probable level in the assignment of maximum entropy, solved to the end; nothing is trained.

    Levels are where the quantizer's codebook starts them. With the prior None and 'quantile' levels these are the means
    of cells of equal mass; with the prior 'lloyd_max' and levels of that name, the least squared error of k levels.

    Args:
      params: a tree of arrays.
      rules: with `MEC` quantizers.
      temperature: epsilon relative to each group's var(w), above 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}: it must be above 0; 1e-3 is nearly hard")
    plan = make_plan(params, rules)
    _only(MEC, plan)
    leaves = leaves_by_path(params)
    started = {path: _solved(q, temperature, leaves[path]) for path, q in plan.quantizers.items()}
    quant, state = ({path: pair[i] for path, pair in started.items()} for i in (0, 1))
    return _hardened(plan, params, quant, state)


@partial(jax.jit, static_argnums=0)
def least_squares_bound(quantizer: STE, w: Array) -> Float[Array, " g"]:
    """argmin_a |w - w^_a|^2 of each group, over a = max|w| i / SHARES, i = 1 to SHARES."""
    groups = to_groups(w, quantizer.granularity).astype(jnp.float32)
    largest = jnp.maximum(jnp.abs(groups).max(axis=1), 1e-30)
    shares = jnp.arange(1, SHARES + 1, dtype=jnp.float32) / SHARES

    def error(share: Float[Array, ""]) -> Float[Array, " g"]:
        state = {"bound": share * largest}
        codes = quantizer.group_codes(groups, {}, state).astype(jnp.int32)
        rounded = jnp.take_along_axis(quantizer.levels({}, state), codes, axis=1)
        return jnp.sum(jnp.square(groups - rounded), axis=1)

    return shares[jax.lax.map(error, shares).argmin(axis=0)] * largest


@partial(jax.jit, static_argnums=(0, 1))
def _solved(quantizer: MEC, temperature: float, w: Array) -> tuple[Any, Any]:
    return quantizer.init(w, temperature)


def _only(kind: type, plan: Plan) -> None:
    for path, quantizer in plan.quantizers.items():
        if not isinstance(quantizer, kind):
            raise ValueError(f"{path} has the quantizer {quantizer}; give it {kind.__name__}(...) in the rules")


def _hardened(plan: Plan, params: Any, quant: QuantTree, state: StateTree) -> Quantized:
    return Quantized(plan, quant, state, codes_tree(plan, params, quant, state))


def batches_of(task: Task, batch: int, seed: int) -> Iterator[Batch]:
    """Batches of shuffled epochs without end."""
    for number in count(1):
        yield from task.train.epoch(batch, seed, number)


def fine_tune(
    task: Task, config: Config, progress: Callable[[str, int, int], None] = lambda *_: None
) -> tuple[Quantized, Any, Any]:
    """(quantized, params, model_state) after the soft and hard phases of `recipe` from the task's weights.

    `config.soft_epochs` and `hard_epochs` are counts of steps here: a fine-tune ends within an epoch.
    """
    phases = recipe.phases(config)
    if not phases:
        raise ValueError("soft_epochs = hard_epochs = 0: a fine-tune has at least one step")
    plan, quant, quant_state = quantize_tree(task.params, config.rules(task.order))
    trainer = recipe.quantized_trainer(config, plan, task.loss_fn, 1)
    params, model_state = jax.tree.map(lambda x: jnp.array(x, copy=True), (task.params, task.model_state))
    state = trainer.init(params, quant, quant_state, model_state, jax.random.key(config.seed))

    def told(done: int, metrics: Metrics) -> None:
        if not np.isfinite(metrics.loss):
            raise ValueError(
                f"the loss is {metrics.loss} at step {done} of {len(phases)}; lower learning_rate = "
                f"{config.learning_rate:g}"
            )
        progress(f"{config.method} k = {config.k}", done, len(phases))

    found, state = trained(trainer, state, phases, batches_of(task, config.batch, config.seed), told)
    return found, state.params, state.model_state


def trained(
    trainer: Steps,
    state: TrainState,
    phases: Sequence[str],
    batches: Iterator[Any],
    told: Callable[[int, Metrics], None],
) -> tuple[Quantized, TrainState]:
    """What the levels and the state are after a step of each phase, 'soft' or 'hard'; told(steps done, metrics)."""
    steps = {"soft": jax.jit(trainer.soft_step, donate_argnums=0), "hard": jax.jit(trainer.hard_step, donate_argnums=0)}
    settle = jax.jit(trainer.settle)
    for i, phase in enumerate(phases):
        if phase == "hard" and "hard" not in phases[:i]:
            state = settle(state)
        state, metrics = steps[phase](state, next(batches))
        told(i + 1, metrics)
    if "hard" not in phases:
        state = settle(state)
    return Quantized(trainer.plan, state.quant, state.quant_state, state.codes), state
