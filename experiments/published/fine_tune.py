"""A short fine-tune of a trained network at few bits: a soft and a hard phase of some hundred steps."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import jax
import numpy as np

from experiments.config import Config
from experiments.data.in_memory import Batch
from experiments.tasks.base import Task
from experiments.training import recipe
from experiments.training.run import copied
from mecq_jax.params import Quantized, quantize_tree
from mecq_jax.training import Metrics, TrainState, run_phases


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
    quantized = quantize_tree(task.params, config.rules(task.order))
    steps = recipe.quantized_trainer(config, task.loss_fn, 1)
    params, model_state = copied((task.params, task.model_state))
    state = steps.init(params, quantized, model_state, jax.random.key(config.seed))

    def each(done: int, phase: str, state: TrainState, metrics: Metrics) -> None:
        if not np.isfinite(metrics.loss):
            raise ValueError(
                f"the loss is {metrics.loss} at step {done} of {len(phases)}; lower learning_rate = "
                f"{config.learning_rate:g}"
            )
        progress(f"{config.method} k = {config.k}", done, len(phases))

    state = run_phases(steps, state, phases, batches_of(task, config.batch, config.seed), each=each)
    return state.quantized, state.params, state.model_state
