"""Image classification as pure functions: a float NNX model becomes (params, model_state) and a loss over them."""

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.config import Config
from experiments.data import augment
from experiments.data import in_memory as data
from experiments.models import small as models
from experiments.tasks import base as task
from experiments.tasks.base import Examples, parts, refuse, rest_of


class Classifier(task.Task):
    """A network that gives a logit for every class of an image."""

    measure: ClassVar[str] = "accuracy"

    @property
    @abstractmethod
    def statistics(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and std of each channel of pixels scaled to [0, 1]."""

    def inputs(self, images):
        """What the model is given of uint8 images."""
        return augment.normalise(images, *self.statistics).astype(self.config.compute)

    def augmented(self, rng, images):
        """Training images under the config's augmentation."""
        return augment.apply(rng, images, self.config.augment, pad=self.config.pad)

    def logits(self, params, model_state, images):
        """Logits [b, classes] of uint8 images, float32, batch norm by its running statistics."""
        return self.model(params, model_state, training=False)(self.inputs(images)).astype(jnp.float32)

    def loss_fn(self, params, model_state, batch, rng):
        """Cross-entropy of an augmented batch, where the config says so of mixed images to both of their classes; batch
        norm by the batch."""
        model, labels = self.model(params, model_state, training=True), batch["label"]
        images, others, share = self.inputs(self.augmented(rng, batch["image"])), labels, jnp.ones(())
        if self.config.mixup:
            images, others, share = mixup(jax.random.fold_in(rng, 1), images, labels, self.config.mixup)
        logits = model(images).astype(jnp.float32)
        loss = cross_entropy(logits, labels, self.config.label_smoothing)
        if self.config.mixup:
            loss = share * loss + (1 - share) * cross_entropy(logits, others, self.config.label_smoothing)
        return loss, (rest_of(model), train_accuracy(logits, labels))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Classifier):
    """A classifier of a data set in memory."""

    dataset: data.Dataset

    @property
    def statistics(self):
        return self.dataset.mean, self.dataset.std

    @cached_property
    def train(self) -> Examples:
        return Examples({"image": self.dataset.train_images, "label": self.dataset.train_labels})

    @cached_property
    def test(self) -> Examples:
        return Examples({"image": self.dataset.test_images})

    def output(self, params, model_state, batch):
        """The class of every image."""
        return self.logits(params, model_state, batch["image"]).argmax(axis=1)

    def score(self, outputs):
        """Share of test images classified right."""
        return float(np.mean(outputs == self.dataset.test_labels))


def cross_entropy(logits, labels, smoothing: float = 0.0):
    """Mean over the batch of -sum_c t_c log p_c, nats, with p = softmax(logits) [b, c] and targets t_c =
    (1 - s) [c = label] + s / c, s the `smoothing` (Szegedy et al., 2015, arXiv 1512.00567, section 7)."""
    if not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[1]), smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()


def mixup(rng: jax.Array, images: jax.Array, labels: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(s x + (1 - s) x', labels of x', s): every image x with the one x' as far from the batch's other end, and one
    share s ~ Beta(alpha, alpha) a batch (Zhang et al., 2017, arXiv 1710.09412; pairs as in timm).

    images: float [b, ...]; labels: int [b].
    """
    share = jax.random.beta(rng, alpha, alpha)
    mixed = share * images + (1 - share) * images[::-1]
    return mixed.astype(images.dtype), labels[::-1], share


def train_accuracy(logits, labels) -> Mapping[str, Any]:
    """The scalar that a loss reports of its batch."""
    return {"train_accuracy": jnp.mean((logits.argmax(axis=1) == labels).astype(jnp.float32))}


def downscale(images: np.ndarray, factor: int) -> np.ndarray:
    """Means over factor x factor pixels, uint8; the size must divide."""
    if factor == 1:
        return images
    n, h, w, c = images.shape
    if h % factor or w % factor:
        raise ValueError(f"downscale = {factor} does not divide images of {h} x {w}")
    return np.rint(images.reshape(n, h // factor, factor, w // factor, factor, c).mean(axis=(2, 4))).astype(np.uint8)


def make_task(config: Config, dataset: data.Dataset | None = None) -> Task:
    """Load the data (unless given) and build the model that `config` names."""
    refuse(config, ("size", "test_size", "context", "workers"), "images in memory are classified as they are")
    if dataset is None:
        dataset = data.load(config.dataset, config.data_dir, config.train_size)
    dataset = dataclasses.replace(
        dataset,
        train_images=downscale(dataset.train_images, config.downscale),
        test_images=downscale(dataset.test_images, config.downscale),
    )
    size, channels = (int(d) for d in dataset.train_images.shape[2:])
    model = models.build(config.model, channels, size, dataset.classes, config.width, config.seed)
    return Task(config=config, dataset=dataset, **parts(model))
