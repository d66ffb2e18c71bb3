"""Classification of images that do not fit in memory: ImageNet, decoded and cut on the host, mixed on the device."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config
from experiments.data import decode
from experiments.data.decode import Size
from experiments.data.stream import Example, Records, Stream, open_tfds
from experiments.models import imagenet as imagenet_models
from experiments.models.imagenet import CLASSES, MEAN, STD
from experiments.tasks.base import OfSources, parts, refuse
from experiments.tasks.classification import Classifier

_HINT = (
    "imagenet2012 is not downloaded by itself: ask for ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar on "
    "image-net.org and put both in <data_dir>/downloads/manual before you prepare it."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Classifier, OfSources):
    """A classifier of streams of {"image": uint8 [b, h, w, 3], "label": int32 [b]}."""

    test_batch: ClassVar[int] = 256

    @property
    def statistics(self) -> tuple[Sequence[float], Sequence[float]]:
        return MEAN, STD

    def augmented(self, rng: jax.Array, images: jax.Array) -> jax.Array:
        """As they are: the stream has cut them."""
        return images

    def output(self, params: Any, model_state: Any, batch: Any) -> jax.Array:
        """Whether the most probable class of each image is its label, int32 [b]: labels come with the stream, so that
        `score` needs nothing else."""
        right = self.logits(params, model_state, batch["image"]).argmax(axis=1) == batch["label"]
        return right.astype(jnp.int32)

    def score(self, outputs: np.ndarray) -> float:
        """Share of test images classified right (top-1)."""
        return float(np.mean(outputs))


def for_training(size: Size, record: Example, rng: np.random.Generator) -> Example:
    """A random part of the image at `size`, mirrored or not."""
    (image,) = decode.flip(rng, decode.random_resized_crop(rng, decode.rgb(record["image"]), size))
    return {"image": image, "label": np.int32(record["label"])}


def for_testing(size: Size, record: Example, rng: np.random.Generator) -> Example:
    """The middle of the image at `size`."""
    return {"image": decode.center_crop(decode.rgb(record["image"]), size), "label": np.int32(record["label"])}


def make_task(config: Config, records: dict[str, Records] | None = None) -> Task:
    """Open the data (unless given as {"train", "validation"}) and build the model that `config` names."""
    refuse(config, ("augment", "downscale", "test_size", "context"), "the stream cuts and mirrors")
    if config.dataset not in CLASSES:
        raise ValueError(f"unknown data set {config.dataset!r}; use one of {', '.join(CLASSES)}")
    if config.size is None or config.size[0] != config.size[1]:
        raise ValueError(f"size = {config.size}: it must be a height and an equal width, such as (224, 224)")
    if records is None:
        names = ("train", "validation")
        records = {split: open_tfds(config.dataset, split, config.data_dir, _HINT) for split in names}
    model = imagenet_models.build(config.model, 3, config.size[0], CLASSES[config.dataset], config.width, config.seed)
    train = Stream(records["train"], partial(for_training, config.size), config.train_size, config.workers)
    test = Stream(records["validation"], partial(for_testing, config.size), workers=config.workers)
    return Task(config=config, train_source=train, test_source=test, **parts(model))
