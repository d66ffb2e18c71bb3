"""Image classification as pure functions: a float NNX model becomes (params, model_state) and a loss over them."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import optax

from experiments import augment, data, models, task
from experiments.config import Config
from experiments.task import Examples, parts, rest_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(task.Task):
    """A data set in memory and a network that gives a logit for every class."""

    dataset: data.Dataset
    measure: ClassVar[str] = "accuracy"

    @cached_property
    def train(self) -> Examples:
        return Examples({"image": self.dataset.train_images, "label": self.dataset.train_labels})

    @cached_property
    def test(self) -> Examples:
        return Examples({"image": self.dataset.test_images})

    def inputs(self, images):
        """What the model is given of uint8 images."""
        return augment.normalise(images, self.dataset.mean, self.dataset.std).astype(self.config.compute)

    def augmented(self, rng, images):
        """Training images under the config's augmentation."""
        return augment.apply(rng, images, self.config.augment, pad=self.config.pad)

    def logits(self, params, model_state, images):
        """Logits [b, classes] of uint8 images, float32, batch norm by its running statistics."""
        return self.model(params, model_state, training=False)(self.inputs(images)).astype(jnp.float32)

    def loss_fn(self, params, model_state, batch, rng):
        """Cross-entropy of an augmented batch; batch norm by the batch."""
        model = self.model(params, model_state, training=True)
        logits = model(self.inputs(self.augmented(rng, batch["image"]))).astype(jnp.float32)
        return cross_entropy(logits, batch["label"]), (rest_of(model), train_accuracy(logits, batch["label"]))

    def output(self, params, model_state, batch):
        """The class of every image."""
        return self.logits(params, model_state, batch["image"]).argmax(axis=1)

    def score(self, outputs):
        """Share of test images classified right."""
        return float(np.mean(outputs == self.dataset.test_labels))


def cross_entropy(logits, labels):
    """Mean cross-entropy, nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


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
