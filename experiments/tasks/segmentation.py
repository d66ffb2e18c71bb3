"""Semantic segmentation: a class for every pixel, judged by the mean intersection over union."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from experiments.config import Config
from experiments.data import augment, masks, scaling
from experiments.models import segmentation as networks
from experiments.tasks.base import Examples, OfSources, parts, refuse, rest_of

DATASETS = {"folder": None, "camvid": masks.CAMVID}
OVERLAP = 1 / 3
UNUSED = ("downscale", "context", "label_smoothing", "mixup")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(OfSources):
    """A network that gives logits for every pixel, and images with masks: batches of 'image' uint8 [b, h, w, 3] and
    'label' int [b, h, w].

    classes: names, colours and the label to ignore; mean, std: of each channel of the pixels / 255.
    """

    classes: masks.Classes
    mean: Sequence[float]
    std: Sequence[float]

    measure: ClassVar[str] = "miou"
    test_batch: ClassVar[int] = 8

    def of_config(self, config: Config) -> "Task":
        """The same data with the model that another config names, which must be of the same data set and size."""
        for name in ("task", "dataset", "size"):
            if (mine := getattr(self.config, name)) != (other := getattr(config, name)):
                raise ValueError(f"{name} = {other!r}, and {mine!r} of the data that is read; they must be the same")
        model = networks.made(config, len(self.classes.names))
        return dataclasses.replace(self, config=config, **parts(model))

    def inputs(self, images):
        """What the model is given of uint8 images."""
        return augment.normalise(images, self.mean, self.std).astype(self.config.compute)

    def logits(self, params, model_state, images):
        """Logits [b, h, w, classes] of uint8 images, float32; of images larger than the config's size by windows."""
        model = self.model(params, model_state, training=False)

        def whole(x):
            return model(self.inputs(x)).astype(jnp.float32)

        size = self.config.size
        if size is None or (images.shape[1] <= size[0] and images.shape[2] <= size[1]):
            return whole(images)
        return sliding(whole, images, size)

    def loss_fn(self, params, model_state, batch, rng):
        """Cross-entropy of an augmented batch; batch norm by the batch."""
        model = self.model(params, model_state, training=True)
        images = augment.normalise(batch["image"], self.mean, self.std)
        labels = batch["label"].astype(jnp.int32)
        images, labels = scaling.apply(rng, images, labels, self.config.augment, self.classes.ignore, self.config.size)
        logits = model(images.astype(self.config.compute)).astype(jnp.float32)
        counts = labels != self.classes.ignore
        right = jnp.sum((logits.argmax(axis=-1) == labels) & counts) / jnp.maximum(jnp.sum(counts), 1)
        loss = cross_entropy(logits, labels, self.classes.ignore)
        return loss, (rest_of(model), {"train_pixel_accuracy": right})

    def class_map(self, params, model_state, images) -> Array:
        """The class of every pixel, int32 [b, h, w], of uint8 images [b, h, w, 3]."""
        return self.logits(params, model_state, images).argmax(axis=-1).astype(jnp.int32)

    def output(self, params, model_state, batch):
        """The confusion matrix of every image, int32 [b, classes, classes]."""
        found = self.class_map(params, model_state, batch["image"])
        return confusion(batch["label"].astype(jnp.int32), found, len(self.classes.names))

    def score(self, outputs):
        """Mean intersection over union, over the classes that occur in the test set."""
        total = outputs.sum(axis=0, dtype=np.int64)
        return float(iou(total)[total.sum(axis=1) > 0].mean())


def cross_entropy(logits: Float[Array, "b h w k"], labels: Int[Array, "b h w"], ignore: int) -> Float[Array, ""]:
    """Mean over the pixels with labels other than `ignore` of the cross-entropy, nats; 0 where there are none."""
    counts = labels != ignore
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(counts, labels, 0))
    return jnp.sum(jnp.where(counts, losses, 0.0)) / jnp.maximum(jnp.sum(counts), 1)


def confusion(labels: Int[Array, "b h w"], found: Int[Array, "b h w"], classes: int) -> Int[Array, "b k k"]:
    """counts[b, i, j]: pixels of image b of class i that were taken for class j; other labels count for nothing."""
    b = labels.shape[0]
    cell = jnp.where((labels >= 0) & (labels < classes), classes * labels + found, classes * classes).reshape(b, -1)
    counts = jnp.zeros((b, classes * classes + 1), jnp.int32).at[jnp.arange(b)[:, None], cell].add(1)
    return counts[:, :-1].reshape(b, classes, classes)


def iou(confusion: np.ndarray) -> np.ndarray:
    """Of each class, pixels rightly found / pixels that are or were taken for it; 0 for a class that neither is."""
    right = np.diagonal(confusion)
    return right / np.maximum(confusion.sum(axis=0) + confusion.sum(axis=1) - right, 1)


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of the pixels that were found right."""
    return float(np.trace(confusion) / max(confusion.sum(), 1))


def sliding(
    logits_of: Callable[[Array], Array], images: Array, window: tuple[int, int], overlap: float = OVERLAP
) -> Float[Array, "b h w k"]:
    """Logits of images by windows of one size, averaged where windows overlap.

    window: (height, width); where it is larger than the image, the image's own.
    overlap: least share of a window that the next one covers again, in [0, 1).
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap = {overlap}: it must be a share of the window in [0, 1)")
    h, w = (min(a, b) for a, b in zip(window, images.shape[1:3], strict=True))
    total, count = jnp.zeros((), jnp.float32), jnp.zeros((*images.shape[1:3], 1), jnp.float32)
    for top in _starts(images.shape[1], h, overlap):
        for left in _starts(images.shape[2], w, overlap):
            logits = logits_of(images[:, top : top + h, left : left + w])
            around = ((0, 0), (top, images.shape[1] - top - h), (left, images.shape[2] - left - w), (0, 0))
            total = total + jnp.pad(logits, around)
            count = count.at[top : top + h, left : left + w].add(1.0)
    return total / count


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin: evenly from 0 to length - window, as few as the overlap allows."""
    steps = int(np.ceil((length - window) / max(1, int(window * (1 - overlap)))))
    return [round(i * (length - window) / max(1, steps)) for i in range(steps + 1)]


def make_task(config: Config, found: masks.Masks | None = None) -> Task:
    """Read the folder (unless its content is given) and build the model that `config` names."""
    scaling.check(config.augment)
    refuse(config, (*UNUSED, "workers"), "it is of classification or of streams")
    if config.dataset not in DATASETS:
        raise ValueError(f"dataset = {config.dataset!r}: segmentation has {', '.join(DATASETS)}")
    found = found or masks.load(
        config.data_dir, config.size, DATASETS[config.dataset], config.train_size, config.test_size
    )
    model = networks.made(config, len(found.classes.names))
    return Task(
        config=config,
        train_source=Examples({"image": found.train_images, "label": found.train_labels}),
        test_source=Examples({"image": found.test_images, "label": found.test_labels}),
        classes=found.classes,
        mean=found.mean,
        std=found.std,
        **parts(model),
    )
