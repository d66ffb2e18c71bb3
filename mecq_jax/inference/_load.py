"""Networks from packed files, ready to be called.

    model = inference.load("model.safetensors", forward)                 # weights unpacked once, on the device
    model = inference.load("model.safetensors", forward, packed=True)    # weights stay packed on the device
    logits = model(x)

`forward` is a pure function of (arrays by path, x), such as `layers.functional(model)`. With packed=True a product
x W unpacks W by blocks of at most 2^18 weights (1 MiB in float32), whatever its size; convolutions and what else is
computed of a weight unpack that one weight, for the time of the call.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mecq_jax import storage
from mecq_jax.inference._by_blocks import by_blocks
from mecq_jax.inference._packed import Forward, dense, to_device


@dataclasses.dataclass(frozen=True)
class Model:
    """A network and its weights.

    Attributes:
      apply: (weights, x) -> output, jitted.
      weights: by path, on the device: arrays, and `PackedTensor`s if they stay packed.
    """

    apply: Callable[[Mapping[str, Any], Any], Any]
    weights: Mapping[str, Any]

    def __call__(self, x: Any) -> Any:
        """The network's output."""
        return self.apply(self.weights, x)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights on the device."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.weights))


def load(path: str | os.PathLike, forward: Forward, *, packed: bool = False) -> Model:
    """The network of a packed file.

    Args:
      path: a file that `artifact.save` wrote.
      forward: (arrays by path, x) -> output.
      packed: whether the weights stay packed on the device, or are unpacked now.

    Raises:
      ArtifactError: if the file is not sound.
    """
    weights = to_device(storage.load(path))
    if packed:
        return Model(jax.jit(by_blocks(forward)), weights)
    return Model(jax.jit(forward), jax.jit(dense)(weights))
