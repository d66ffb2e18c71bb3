"""The task that a config names; its module is imported when it is wanted, for some bring packages that take seconds."""

import importlib

from experiments.config import Config
from experiments.task import Task

MODULES = {"classify": "experiments.classify", "segment": "experiments.segmentation.segment",
           "language": "experiments.language.modelling"}  # fmt: skip
# Data sets too large for memory, read while training.
STREAMED = {("classify", "imagenet2012"): "experiments.imagenet",
            ("segment", "ade20k"): "experiments.segmentation.ade20k",
            ("segment", "scene_parse150"): "experiments.segmentation.ade20k"}  # fmt: skip


def make_task(config: Config) -> Task:
    """Data and network of `config`, loaded and built."""
    return importlib.import_module(STREAMED.get((config.task, config.dataset), MODULES[config.task])).make_task(config)
