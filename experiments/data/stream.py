"""Data sets that are too large for memory: records read at random by their number, decoded as they are needed.

Order and random numbers are functions of (seed, epoch, number of the record) alone: the examples of a batch are the
same from any process, with any number of workers, and after a run was resumed. grain reads ahead.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, Protocol

import grain
import jax
import numpy as np
from absl import flags

from experiments.data import in_memory as data
from experiments.data.in_memory import Batch

Example = Mapping[str, Any]
THREADS = min(os.cpu_count() or 1, 16)


class Records(Protocol):
    """Examples by their number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclasses.dataclass(frozen=True)
class Stream:
    """A `task.Source` over records.

    transform: (record, generator) -> example, arrays of the same shapes for every record; a module's function, so that
    it can be sent to workers.
    train_size: this many of the records, a fixed random choice that lies in every larger one; None: all.
    workers: processes that read, each some batches ahead; 0: threads of this process (Pillow decodes and resizes
    without Python's lock).
    """

    records: Records
    transform: Callable[[Example, np.random.Generator], Example]
    train_size: int | None = None
    workers: int = 0

    def __post_init__(self):
        if not len(self.records):  # a folder that is missing tells here, before anything is built
            raise ValueError(f"{self.records} holds no records")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}, must be at least 0; 0 reads by threads of this process")
        if self.train_size is not None and not 1 <= self.train_size <= len(self.records):
            raise ValueError(
                f"train_size is {self.train_size}, must be from 1 to {len(self.records)}; leave it None for all"
            )

    def __len__(self) -> int:
        return len(self.records) if self.train_size is None else self.train_size

    @cached_property
    def _chosen(self) -> np.ndarray:
        """Numbers of the records that are used."""
        if self.train_size is None:
            return np.arange(len(self.records))
        return np.random.RandomState(0).permutation(len(self.records))[: self.train_size]

    def epoch(self, batch: int, seed: int, number: int, start: int = 0) -> Iterator[Batch]:
        return self._read(data.epoch_indices(seed, number, len(self), batch)[start:], (seed, number))

    def once(self, batch: int) -> Iterator[Batch]:
        steps = -(-len(self) // batch)
        return self._read(np.minimum(np.arange(steps * batch), len(self) - 1).reshape(steps, batch), (0, 0))

    def _read(self, rows: np.ndarray, seed: tuple[int, int]) -> Iterator[Batch]:
        """This process's part of every row of example numbers [steps, batch], decoded."""
        mine = np.split(self._chosen[rows], jax.process_count(), axis=1)[jax.process_index()]
        # A batch is one element to grain: workers that take every n-th element leave the batches what they are.
        batches = grain.MapDataset.source(mine).map(partial(_batch, self.records, self.transform, seed))
        threads = 1 if self.workers else THREADS
        dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1))
        return _by_workers(dataset, self.workers) if self.workers else iter(dataset)


def _by_workers(dataset: grain.IterDataset, workers: int) -> Iterator[Batch]:
    """The batches as `workers` processes make them, which end with the iterator."""
    if not flags.FLAGS.is_parsed():  # grain asks them before it starts a process
        flags.FLAGS.mark_as_parsed()
    found = iter(dataset.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=2)))
    try:
        for batch in found:
            yield {name: np.array(array, subok=False) for name, array in batch.items()}  # out of the shared memory
    finally:
        found.close()


def _batch(records: Records, transform: Callable, seed: tuple[int, int], row: np.ndarray) -> Batch:
    """The examples of these records, stacked; each has a generator of its own."""
    examples = [transform(records[int(i)], np.random.default_rng([*seed, int(i)])) for i in row]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def open_tfds(name: str, split: str, data_dir: str | os.PathLike | None = None, hint: str = "") -> Records:
    """A split of a prepared data set of tensorflow-datasets, without TensorFlow and without the network.

    hint: what else there is to say where it is missing.
    """
    folder = data.data_root(data_dir)
    try:
        version = data._prepared_version(name, folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}\n{hint}".rstrip()) from None
    return data._tfds().data_source(f"{name}:{version}", split=split, data_dir=folder, download=False)
