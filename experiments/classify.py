"""Image classification as pure functions: a float NNX model becomes (params, model_state) and a loss over them."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments import augment, data, models
from experiments.config import Config
from mecq_jax.layers import kernels


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set and a model, with everything that a run computes from them.

    params, model_state: starting trees of plain arrays; `order`: the parameters by path as the model builds them.
    """

    config: Config
    dataset: data.Dataset
    graphdef: Any
    params: Any
    model_state: Any
    order: Mapping[str, Any]

    def model(self, params, model_state, training: bool) -> Any:
        """The model with these parameters in the config's type; in training, batch norm goes by the batch."""
        params = jax.tree.map(lambda x: x.astype(self.config.compute), params)
        model = nnx.merge(self.graphdef, nnx.State(params), nnx.State(model_state))
        return nnx.view(model, use_running_average=not training, deterministic=not training, raise_if_not_found=False)

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

    @cached_property
    def _predict(self):
        return jax.jit(lambda params, state, images: self.logits(params, state, images).argmax(axis=1))

    def predict(self, params, model_state, batch: int = 500) -> np.ndarray:
        """The class predicted for every test image."""
        images = self.dataset.test_images
        starts = range(0, len(images), batch)
        parts = [np.asarray(self._predict(params, model_state, images[i : i + batch])) for i in starts]
        return np.concatenate(parts)

    def accuracy(self, params, model_state) -> float:
        """Share of test images classified right."""
        return float(np.mean(self.predict(params, model_state) == self.dataset.test_labels))


def cross_entropy(logits, labels):
    """Mean cross-entropy, nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train_accuracy(logits, labels) -> Mapping[str, Any]:
    """The scalar that a loss reports of its batch."""
    return {"train_accuracy": jnp.mean((logits.argmax(axis=1) == labels).astype(jnp.float32))}


def rest_of(model: Any) -> Any:
    """A model's state that is not trained by gradients, as a plain tree."""
    _, _, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    return nnx.to_pure_dict(rest)


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
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    return Task(
        config, dataset, graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(rest), order=kernels(model)
    )
