"""The networks of runs as pure functions, for `mecq export`:

mecq export runs/x/model.safetensors --to onnx -o x.onnx --model experiments.exporting:network
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from experiments.classify import Task, make_task
from experiments.config import Config
from experiments.run import unflatten


def network(extra: Mapping[str, Any]) -> tuple[Callable[[Mapping[str, Any], jax.Array], jax.Array], Any]:
    """(forward, test images) of a run's file: logits of uint8 images, normalised as in training."""
    task = make_task(Config(**extra["config"]))
    return forward_of(task), task.dataset.test_images


def forward_of(task: Task) -> Callable[[Mapping[str, Any], jax.Array], jax.Array]:
    """(arrays by the names of a run's file, uint8 images) -> logits."""

    def forward(arrays: Mapping[str, Any], images: jax.Array) -> jax.Array:
        params, model_state = unflatten(dict(arrays), task)
        return task.logits(params, model_state, images)

    return forward
