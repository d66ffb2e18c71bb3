"""The task that a config names; its module is imported when it is wanted, for some bring packages that take seconds."""

import importlib

from experiments.config import Config
from experiments.tasks.base import Task

MODULES = {
    "classification": "experiments.tasks.classification",
    "segmentation": "experiments.tasks.segmentation",
    "language": "experiments.tasks.language",
}
# Data sets too large for memory, read while training.
STREAMED = {
    ("classification", "imagenet2012"): "experiments.tasks.streamed_classification",
    ("segmentation", "ade20k"): "experiments.tasks.ade20k",
    ("segmentation", "scene_parse150"): "experiments.tasks.ade20k",
}


def make_task(config: Config) -> Task:
    """Data and network of `config`, loaded and built."""
    return importlib.import_module(STREAMED.get((config.task, config.dataset), MODULES[config.task])).make_task(config)
