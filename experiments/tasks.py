"""The task that a config names."""

from experiments import classify
from experiments.config import Config
from experiments.task import Task

MAKERS = {"classify": classify.make_task}


def make_task(config: Config) -> Task:
    """Data and network of `config`, loaded and built."""
    return MAKERS[config.task](config)
