"""Image data sets as arrays in memory, and the order in which an epoch visits them."""

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Batch = dict[str, np.ndarray]
CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "fashion_mnist": 10}
_READ_AT_ONCE = 1000  # records asked of the reader in one call; one by one is twice as slow

_MISSING = """Data set '{name}' is not in {folder}.
With internet access, prepare it once (preparing needs TensorFlow, reading does not):
    pip install tensorflow
    python -c "import tensorflow_datasets as tfds; tfds.data_source('{name}', data_dir={data_dir!r})"
Or, with a folder prepared elsewhere that holds {name}/<version>/dataset_info.json as array_record files:
    --data_dir <that folder>   (or data_dir=... in Python, or the environment variable TFDS_DATA_DIR)
Without either, use --dataset digits, which needs no download."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An image classification data set.

    name: one of `CLASSES`.
    train_images, test_images: uint8 [N, H, W, C].
    train_labels, test_labels: int32 [N], from 0 to classes - 1.
    classes: number of classes.
    mean, std: one float per channel, of the train pixels scaled to [0, 1].
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load(name: str, data_dir: str | os.PathLike | None = None, train_size: int | None = None) -> Dataset:
    """The data set `name`, whole and decoded; never uses the network.

    name: "digits", "cifar10", "cifar100" or "fashion_mnist".
    data_dir: folder of prepared tensorflow-datasets; None: TFDS_DATA_DIR, or ~/tensorflow_datasets.
    train_size: keep this many train images, a fixed random choice; a smaller choice lies in every larger one.
    """
    if name not in CLASSES:
        raise ValueError(f"unknown data set {name!r}; use one of {', '.join(sorted(CLASSES))}")
    if name == "digits":
        train, test = _digits()
    else:
        folder = data_root(data_dir)
        version = _prepared_version(name, folder)
        train, test = (_read_split(f"{name}:{version}", split, folder) for split in ("train", "test"))
    images, labels = _first(*train, train_size)
    mean, std = channel_statistics(images)
    return Dataset(name, images, labels, *test, CLASSES[name], mean, std)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel of `images`, uint8 [N, H, W, C], scaled to [0, 1]; exact, from pixel counts."""
    values = np.arange(256) / 255.0
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        mean = float(counts @ values)
        means.append(mean)
        stds.append(float(np.sqrt(counts @ (values - mean) ** 2)))
    return tuple(means), tuple(stds)


def epoch_indices(rng_seed: int, epoch: int, n: int, batch: int) -> np.ndarray:
    """int32 [n // batch, batch]: a shuffle of range(n), a function of (rng_seed, epoch, n) alone.

    rng_seed, epoch: integers of at least 0.
    n: number of examples.
    batch: examples per step; the n % batch last ones of the shuffle are left out of this epoch.
    """
    if not 1 <= batch <= n:
        raise ValueError(f"batch is {batch}, must be from 1 to n = {n}; choose a smaller batch or more data")
    if rng_seed < 0 or epoch < 0:
        raise ValueError(f"rng_seed is {rng_seed} and epoch {epoch}, both must be at least 0; count from 0")
    order = np.random.default_rng([rng_seed, epoch]).permutation(n)
    steps = n // batch
    return order[: steps * batch].reshape(steps, batch).astype(np.int32)


def _digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(images, labels) to train on and to test on, of scikit-learn's digits: 1/5 of each class to test."""
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    images = np.round(pixels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = target.astype(np.int32)
    train, test = stratified_split(labels, fraction=0.2, seed=0)
    return (images[train], labels[train]), (images[test], labels[test])


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(kept, held) indices, each sorted and disjoint; held has `fraction` of each class.

    labels: int [N].
    fraction: share of each class that is held out, between 0 and 1.
    seed: of a frozen generator (RandomState), so that the split is the same with every NumPy.
    """
    rng = np.random.RandomState(seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held[members[: round(fraction * len(members))]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _first(images: np.ndarray, labels: np.ndarray, size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """`size` of the examples by a fixed shuffle, or all of them as they are for None."""
    if size is None:
        return images, labels
    if not 1 <= size <= len(labels):
        raise ValueError(f"train_size is {size}, must be from 1 to {len(labels)}; leave it None for all")
    chosen = np.random.RandomState(0).permutation(len(labels))[:size]
    return images[chosen], labels[chosen]


def data_root(data_dir: str | os.PathLike | None) -> Path:
    """`data_dir`, or the folder that tensorflow-datasets uses by default."""
    default = os.environ.get("TFDS_DATA_DIR", Path.home() / "tensorflow_datasets")
    return Path(default if data_dir is None else data_dir).expanduser()


def _prepared_version(name: str, data_dir: Path) -> str:
    """The newest version of `name` with array_record files in `data_dir`.

    Checked before tensorflow-datasets is asked, which otherwise tries the network for minutes.
    """
    infos = (data_dir / name).glob("*.*.*/dataset_info.json")
    versions = [i.parent.name for i in infos if any(i.parent.glob("*.array_record-*"))]
    if not versions:
        raise FileNotFoundError(_MISSING.format(name=name, folder=data_dir / name, data_dir=str(data_dir)))
    return max(versions, key=lambda v: [int(part) if part.isdigit() else -1 for part in v.split(".")])


def _read_split(name: str, split: str, data_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [N, H, W, C], labels int32 [N]) of a prepared data set, in stored order."""
    source = _tfds().data_source(name, split=split, data_dir=data_dir, download=False)
    images, labels = [], []
    for start in range(0, len(source), _READ_AT_ONCE):
        for record in _records(source, range(start, min(start + _READ_AT_ONCE, len(source)))):
            images.append(record["image"])
            labels.append(record["label"])
    return np.stack(images).astype(np.uint8, copy=False), np.asarray(labels, np.int32)


def _records(source: Any, indices: Sequence[int]) -> Sequence[dict]:
    """The decoded records of a tfds data source at `indices`."""
    return source.__getitems__(indices)


def _tfds() -> Any:
    """tensorflow-datasets, imported only when it is needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies warn of deprecations at import
        try:
            import tensorflow_datasets
        except ImportError as error:
            raise ImportError(
                f"this data set needs tensorflow-datasets, which does not import ({error}); "
                "install mecq-jax[experiments], or use the data set 'digits'"
            ) from error
    return tensorflow_datasets
