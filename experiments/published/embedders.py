"""Networks that give each example a vector: judged by how often its nearest neighbours are of its class, fine-tuned to
keep their vectors."""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.data import augment
from experiments.data import in_memory as data
from experiments.data.in_memory import Batch
from experiments.models.imagenet import MEAN, STD
from experiments.published import passages
from experiments.published.name_map import load_by_map
from experiments.published.networks import Network, with_tensors
from experiments.tasks import base as task
from experiments.tasks.base import Examples, parts
from experiments.training.run import named

TO_LEARN_FROM = 2048  # examples, without their labels
NEIGHBOURS, TEMPERATURE = 10, 0.07


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedder(task.Task):
    """Judged on `test` alone: an example's class is the vote of its nearest neighbours among the others.

    given: of a batch, what the model is given. examples: unlabelled, to learn from. judged, labels: examples and their
    classes, int [n].
    """

    given: Callable[[Batch], Array]
    examples: Examples
    judged: Examples
    labels: np.ndarray

    measure: ClassVar[str] = "accuracy"
    test_batch: ClassVar[int] = 64

    def output(self, params: Any, model_state: Any, batch: Any) -> Float[Array, "b d"]:
        """The vector of each example, of length 1."""
        vectors = self.model(params, model_state, training=False)(self.given(batch)).astype(jnp.float32)
        return vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)

    def loss_fn(self, params: Any, model_state: Any, batch: Any, rng: jax.Array) -> Any:
        """Mean of |v - t|^2 = 2 - 2 cos(v, t) over a batch, v the vectors and t the float network's ('target')."""
        vectors = self.output(params, model_state, batch)
        return jnp.mean(jnp.sum(jnp.square(vectors - batch["target"]), axis=1)), (model_state, {})

    def score(self, outputs: np.ndarray) -> float:
        """Share of the examples that their neighbours classify right."""
        return float(np.mean(neighbours_vote(outputs, self.labels) == self.labels))

    @property
    def test(self) -> Examples:
        return self.judged

    @cached_property
    def train(self) -> Examples:
        """With the float network's vectors; they are computed when they are first asked for."""
        target = dataclasses.replace(self, judged=self.examples).predict(self.params, self.model_state)
        return Examples({**self.examples.arrays, "target": target})


def neighbours_vote(vectors: np.ndarray, labels: np.ndarray, count: int = NEIGHBOURS) -> np.ndarray:
    """The class of each example by those of the `count` others nearest to it, each with weight exp(cos / 0.07) (Wu et
    al., 2018, arXiv 1805.01978).

    vectors: [n, d], of length 1; labels: int [n], from 0; count < n.
    """
    blocks = np.split(np.arange(len(vectors)), range(1000, len(vectors), 1000))  # not n x n cosines at once
    return np.concatenate([_votes(vectors, labels, count, own) for own in blocks])


def _votes(vectors: np.ndarray, labels: np.ndarray, count: int, own: np.ndarray) -> np.ndarray:
    """`neighbours_vote` of the examples `own` alone."""
    rows = np.arange(len(own))
    cosine = vectors[own] @ vectors.T
    cosine[rows, own] = -np.inf
    nearest = np.argpartition(-cosine, count, axis=1)[:, :count]
    weights = np.exp((np.take_along_axis(cosine, nearest, axis=1) - 1) / TEMPERATURE)
    votes = np.zeros((len(own), labels.max() + 1))
    np.add.at(votes, (rows[:, None], labels[nearest]), weights)
    return votes.argmax(axis=1)


def make_task(net: Network, path: Path, data_dir: str | None, count: int) -> Embedder:
    """The network of the file on the first `count` examples of its test set; passages lie beside it."""
    if net.dataset == "passages":
        train, test = passages.load(path.parent)
        given = _tokens
    else:
        dataset = data.load(net.dataset, data_dir)
        train = Examples({"image": dataset.train_images})
        test = Examples({"image": dataset.test_images, "label": dataset.test_labels})
        given = _Resized(net.size)
    examples = Examples({name: x[:TO_LEARN_FROM] for name, x in train.arrays.items() if name != "label"})
    judged = {name: x[:count] for name, x in test.arrays.items()}
    labels = judged.pop("label")
    if len(labels) <= NEIGHBOURS:
        raise ValueError(f"{len(labels)} test examples cannot each have {NEIGHBOURS} neighbours; ask for more of them")
    made = Embedder(
        config=net.config(),
        given=given,
        examples=examples,
        judged=Examples(judged),
        labels=labels,
        **parts(net.build()),
    )
    return with_tensors(made, load_by_map(path, net.name_map, named(made.params, made.model_state), net.ignore))


def _tokens(batch: Batch) -> Array:
    return jnp.asarray(batch["tokens"])


@dataclasses.dataclass(frozen=True)
class _Resized:
    """Images normalised as ImageNet's, at another size by cubic interpolation."""

    size: int

    def __call__(self, batch: Batch) -> Array:
        images = augment.normalise(jnp.asarray(batch["image"]), MEAN, STD)
        return jax.image.resize(images, (len(images), self.size, self.size, images.shape[3]), "cubic")
