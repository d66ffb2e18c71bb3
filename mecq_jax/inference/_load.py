"""Networks from packed files, ready to be called.

model = inference.load("model.safetensors", forward)                 # weights unpacked once, on the device
model = inference.load("model.safetensors", forward, packed=True)    # weights stay packed on the device
logits = model(x)
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
    """A network and its weights, which is called with inputs; `mecq_jax.inference.load` makes one.

    Attributes:
      apply: (weights, x) -> output, jitted.
      weights: by path, on the device: arrays, and `PackedTensor`s if they stay packed.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from mecq_jax.inference import Model
      >>> model = Model(jax.jit(lambda weights, x: x @ weights["w"]), {"w": jnp.ones((3, 2))})
      >>> model(jnp.ones((1, 3))), model.nbytes
      (Array([[3., 3.]], dtype=float32), 24)
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


def load(path: str | os.PathLike[str], forward: Forward, *, packed: bool = False) -> Model:
    """Read a packed file into a network that can be called.

    With `packed` a product x W unpacks W by blocks of at most 2^18 weights (1 MiB in float32), whatever its size;
    convolutions and what else is computed of a weight unpack that one weight, for the time of the call.

    Args:
      path: a file that `mecq_jax.save` wrote.
      forward: (arrays by path, x) -> output, a pure function, such as `mecq_jax.nn.forward(model)`.
      packed: whether the weights stay packed on the device, or are unpacked now.

    Returns:
      The network: `load(path, forward)(x)` is forward(arrays of the file, x).

    Raises:
      ArtifactError: if the file is not sound.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from mecq_jax import inference, save
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     size = save(f"{folder}/m.safetensors", {"w": np.full((3, 2), 2, np.float32)})
      ...     model = inference.load(f"{folder}/m.safetensors", lambda arrays, x: x @ arrays["w"])
      >>> model(np.ones((1, 3), np.float32))
      Array([[6., 6.]], dtype=float32)
    """
    weights = to_device(storage.load(path))
    if packed:
        return Model(jax.jit(by_blocks(forward)), weights)
    return Model(jax.jit(forward), jax.jit(dense)(weights))
