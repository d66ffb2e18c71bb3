"""The networks of runs as pure functions, for `mecq`:

mecq verify --run runs/x --predictions --model experiments.portability.forward:predictions
mecq export runs/x/model.safetensors --to onnx -o x.onnx --model experiments.portability.forward:network
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from experiments.config import Config
from experiments.reporting.migrate import renamed
from experiments.tasks import segmentation as segment
from experiments.tasks.classification import Classifier
from experiments.tasks.registry import make_task
from experiments.training.run import unflatten

EXAMPLES = 512  # images that an exported file is compared on


def network(extra: Mapping[str, Any]) -> tuple[Callable[[Mapping[str, Any], jax.Array], jax.Array], Any]:
    """(forward, test images) of a run's file: logits of uint8 images, normalised as in training.

    Raises:
      ValueError: for a task that has no images.
    """
    task = make_task(Config(**renamed(extra["config"])))
    if not isinstance(task, Classifier | segment.Task):
        raise ValueError(
            f"task = {task.config.task!r}: networks on images are exported; write a function of your own "
            "as this one and give it by --model"
        )
    return forward_of(task), next(iter(task.test.once(min(len(task.test), EXAMPLES))))["image"]


def predictions(extra: Mapping[str, Any]) -> tuple[Callable[[Mapping[str, Any], Any], np.ndarray], None]:
    """(forward, nothing) of a run's file: what the network says of the test set, as the run evaluated it."""
    task = make_task(Config(**renamed(extra["config"])))
    return lambda arrays, _: task.predict(*unflatten(dict(arrays), task)), None


def forward_of(task: Classifier | segment.Task) -> Callable[[Mapping[str, Any], jax.Array], jax.Array]:
    """(arrays by the names of a run's file, uint8 images) -> logits."""

    def forward(arrays: Mapping[str, Any], images: jax.Array) -> jax.Array:
        params, model_state = unflatten(dict(arrays), task)
        return task.logits(params, model_state, images)

    return forward
