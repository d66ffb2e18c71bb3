"""What a run trains: a network as pure functions, the examples that it sees, and the figure that it is judged by."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np
from flax import nnx

from experiments.config import Config
from experiments.data import in_memory as data
from experiments.data.in_memory import Batch
from experiments.runtime.devices import ONE, Devices
from experiments.runtime.formatting import mean_std
from mecq_jax.nn import parameters_by_path
from mecq_jax.training import host_copy


class Source(Protocol):
    """Examples in batches of equal size. In a run of several processes each is given its own part of every batch."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def epoch(self, batch: int, seed: int, number: int, start: int = 0) -> Iterator[Batch]:
        """The len // batch batches of a shuffled epoch from batch `start` on; a function of the arguments alone."""
        ...

    def once(self, batch: int) -> Iterator[Batch]:
        """Every example in order; the last batch is filled up with examples that count for nothing."""
        ...


@dataclasses.dataclass(frozen=True)
class Examples:
    """A source in memory: arrays whose leading dimension counts the examples."""

    arrays: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def epoch(self, batch: int, seed: int, number: int, start: int = 0) -> Iterator[Batch]:
        for rows in data.epoch_indices(seed, number, len(self), batch)[start:]:
            yield self._own(rows)

    def once(self, batch: int) -> Iterator[Batch]:
        for first in range(0, len(self), batch):
            yield self._own(np.minimum(np.arange(first, first + batch), len(self) - 1))

    def _own(self, rows: np.ndarray) -> Batch:
        mine = np.split(rows, jax.process_count())[jax.process_index()]
        return {name: array[mine] for name, array in self.arrays.items()}


class Measure(NamedTuple):
    """A figure on a test set: its title, which way is better, and factor, decimals and sign to print it with."""

    title: str
    higher_is_better: bool = True
    factor: float = 100.0
    decimals: int = 2
    sign: str = " %"

    def shown(self, score: float) -> str:
        """The figure as text."""
        return f"{self.factor * score:.{self.decimals}f}{self.sign}"

    def spread(self, scores: Sequence[float]) -> str:
        """The mean of several, and +- their sample std, without the sign."""
        return mean_std(scores, f".{self.decimals}f", self.factor)


MEASURES = {
    "accuracy": Measure("accuracy"),
    "miou": Measure("mean IoU"),
    "bits_per_character": Measure("bits per character", higher_is_better=False, factor=1.0, decimals=4, sign=""),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A network with its data; a subclass says what the loss is and how the network is judged.

    params, model_state: starting trees of plain arrays; `order`: the parameters by path as the model builds them.
    measure: the figure on the test set, one of `MEASURES`; test_batch: examples that are evaluated together.
    """

    config: Config
    graphdef: Any
    params: Any
    model_state: Any
    order: Mapping[str, Any]

    measure: ClassVar[str]
    test_batch: ClassVar[int] = 512

    @property
    @abstractmethod
    def train(self) -> Source:
        """What it is trained on."""

    @property
    @abstractmethod
    def test(self) -> Source:
        """What it is judged on."""

    @abstractmethod
    def loss_fn(self, params: Any, model_state: Any, batch: Any, rng: jax.Array) -> Any:
        """(loss, (model_state, scalars to report)) of a batch of `train`, as `training.LossFn`."""

    @abstractmethod
    def output(self, params: Any, model_state: Any, batch: Any) -> jax.Array:
        """What the network says of each example of a batch of `test`, [b, ...]."""

    @abstractmethod
    def score(self, outputs: np.ndarray) -> float:
        """The figure `measure` of the outputs for all of `test`."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the config's size in an epoch."""
        size = len(self.train)
        return min(size, self.config.epoch_size or size) // self.config.batch

    def model(self, params: Any, model_state: Any, training: bool) -> Any:
        """The model with these parameters in the config's type; in training, batch norm goes by the batch."""
        params = jax.tree.map(lambda x: x.astype(self.config.compute), params)
        model = nnx.merge(self.graphdef, nnx.State(params), nnx.State(model_state))
        return nnx.view(model, use_running_average=not training, deterministic=not training, raise_if_not_found=False)

    @cached_property
    def _output(self) -> Any:
        return jax.jit(self.output)

    def predict(self, params: Any, model_state: Any, devices: Devices = ONE) -> np.ndarray:
        """The outputs for all of `test`."""
        batch = devices.rounded_up(self.test_batch)
        places = np.argsort(devices.order(batch))
        batches = map(devices.batch, self.test.once(batch))
        parts = [host_copy(self._output(params, model_state, part))[places] for part in batches]
        return np.concatenate(parts)[: len(self.test)]

    def evaluate(self, params: Any, model_state: Any, devices: Devices = ONE) -> float:
        """The figure `measure` on the test set."""
        return self.score(self.predict(params, model_state, devices))

    @property
    def kind(self) -> Measure:
        """What is known of the measure."""
        return MEASURES[self.measure]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfSources(Task):
    """A task whose examples come from sources that it is given."""

    train_source: Source
    test_source: Source

    @property
    def train(self) -> Source:
        return self.train_source

    @property
    def test(self) -> Source:
        return self.test_source


def refuse(config: Config, names: Sequence[str], why: str) -> None:
    """Raises ValueError at a field of `names` that is not as by default; why: what makes it mean nothing here."""
    for name in names:
        if (value := getattr(config, name)) != (usual := getattr(Config, name)):
            raise ValueError(f"{name} = {value!r}: {why}; leave it at {usual!r}")


def parts(model: nnx.Module) -> dict[str, Any]:
    """The fields of a task that come from its model."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    return {
        "graphdef": graphdef,
        "params": nnx.to_pure_dict(params),
        "model_state": nnx.to_pure_dict(rest),
        "order": parameters_by_path(model),
    }


def rest_of(model: Any) -> Any:
    """A model's state that is not trained by gradients, as a plain tree."""
    _, _, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    return nnx.to_pure_dict(rest)
