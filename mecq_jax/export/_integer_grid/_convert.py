"""Networks on an integer grid: the same output, bit for bit, in every runtime.

    grid = integer.on_grid(forward, tensors, x)             # x: real inputs, which set the ranges of activations
    export.onnx("model.onnx", grid.forward, grid.tensors, x, tolerance=0)

Every number is an integer times a power of two, and every sum stays below 2^24 such units for any input, so that
float32 computes without rounding, whatever the order of a sum and whatever a runtime fuses:

  levels        integers of `level_bits` times 2^e, one e for each group
  activations   where they meet weights, integers of `activation_bits` times 2^e, clipped
  constants     biases, norms and float kernels, integers of 8 to 12 bits times 2^e

The roundings are part of `grid.forward`, so that JAX computes what the files do. `integer_rules` has the rule of each
primitive. What has none (exponentials, divisions by activations: softmax, layer norm) is refused with its place.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mecq_jax.export._integer_grid import _operators as _operators  # registers the rules of primitives
from mecq_jax.export._integer_grid._interpreter import Kind, Walk
from mecq_jax.export._integer_grid._ranges import shortened
from mecq_jax.inference import Forward
from mecq_jax.storage import QuantizedTensor


@dataclasses.dataclass(frozen=True)
class Grid:
    """A network on an integer grid.

    Attributes:
      forward: (arrays by path, x) -> output. Of the arrays it uses the quantized ones; the others are constants in it.
      tensors: the tensors with their levels on the grid.
      largest: the largest sum that any input can make, in its units; at most 2^24.
    """

    forward: Forward
    tensors: dict[str, Any]
    largest: float


def integer_grid(
    forward: Forward, tensors: Mapping[str, Any], x: Any, *, level_bits: int = 8, activation_bits: int = 8
) -> Grid:
    """The network with every number on a grid.

    Args:
      forward: (arrays by path, x) -> one array, as JAX computes it in float32.
      tensors: `HardTensor`s and arrays by path.
      x: inputs as they come in use, [b, ...], which set the ranges of activations; take them from the training set.
      level_bits: bits of a level's integer with its sign, 2 to 8.
      activation_bits: bits of an activation where it meets weights, 2 to 8.

    Raises:
      InexactError: where the network computes what runtimes do not compute alike, or a sum could exceed 2^24 units.
      ValueError: if a number of bits is out of bounds.
    """
    for name, bits in (("level_bits", level_bits), ("activation_bits", activation_bits)):
        if not 2 <= bits <= 8:
            raise ValueError(f"{name} = {bits} must be 2 to 8; 8 costs the least accuracy")
    snapped = {name: snap(t, level_bits) if isinstance(t, QuantizedTensor) else t for name, t in tensors.items()}
    arrays = {n: jnp.asarray(t.dense() if isinstance(t, QuantizedTensor) else t) for n, t in snapped.items()}
    kinds = {n: Kind.WEIGHT if isinstance(t, QuantizedTensor) else Kind.KNOWN for n, t in snapped.items()}
    first = Walk(activation_bits)
    first(forward, kinds, arrays, jnp.asarray(x))

    def grid_forward(arrays: Mapping[str, Any], x: Any) -> Any:
        return Walk(activation_bits, first.choices)(forward, kinds, arrays, x)

    return Grid(grid_forward, snapped, first.largest)


def snap(tensor: QuantizedTensor, bits: int) -> QuantizedTensor:
    """The tensor with levels z 2^e, z integers of `bits` with their sign, e one for each group."""
    return dataclasses.replace(tensor, levels=shortened(tensor.levels, 2 ** (bits - 1) - 1, axis=1))
