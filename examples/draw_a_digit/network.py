"""A small network, and its training to 2 bits on scikit-learn's digits."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from mecq_jax import MEC, fit


class Digits(NamedTuple):
    """Images uint8 [n, 8, 8, 1] and what they show; a fifth of each class is to test on."""

    train_images: np.ndarray
    test_images: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray


def digits() -> Digits:
    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    return Digits(*train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0))


class Net(nnx.Module):
    """Four 3x3 convolutions with batch norm, the second and fourth with stride 2, mean pooling and a dense head."""

    def __init__(self, rngs: nnx.Rngs):
        widths = (1, 16, 32, 32, 64)
        self.convs = nnx.List(
            nnx.Conv(a, b, (3, 3), strides=1 + i % 2, use_bias=False, rngs=rngs)
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.norms = nnx.List(nnx.BatchNorm(width, momentum=0.9, rngs=rngs) for width in widths[1:])
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        """Logits [n, 10] of uint8 images; they are scaled here, so that the exported network takes them as they are."""
        x = images.astype(jnp.float32) / 255
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(conv(x)))
        return self.head(x.mean(axis=(1, 2)))


def batches(images: np.ndarray, labels: np.ndarray, size: int = 64) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Random batches without end, each shifted by up to one pixel."""
    rng, padded = np.random.default_rng(0), np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    while True:
        rows, (x, y) = rng.choice(len(images), size, replace=False), rng.integers(3, size=2)
        yield padded[rows, y : y + 8, x : x + 8], labels[rows]


def loss_fn(model: Net, batch: tuple[Array, Array]) -> Array:
    images, labels = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()


def trained(data: Digits, steps: int) -> dict:
    """Arrays and packed tensors by path: all but the first convolution and the head at 2 bits."""
    source = batches(data.train_images, data.train_labels)
    return fit(Net(nnx.Rngs(0)), loss_fn, source, MEC(bits=2), steps=steps, learning_rate=3e-3).tensors
