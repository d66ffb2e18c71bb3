"""Networks on an integer grid: the same output, bit for bit, in every runtime.

    grid = export.integer_grid(forward, tensors, x)             # x: real inputs, which set the ranges of activations
    export.onnx("model.onnx", grid.forward, grid.tensors, x, tolerance=0)

Every number is an integer times a power of two, and every sum stays below 2^24 such units for any input, so that
float32 computes without rounding, whatever the order of a sum and whatever a runtime fuses:

  levels        integers of `level_bits` times 2^e, one e for each group
  activations   where they meet weights, integers of `activation_bits` times 2^e, clipped
  constants     biases, norms and float kernels, integers of 8 to 12 bits times 2^e

The roundings are part of `grid.forward`, so that JAX computes what the files do. `_operators` has the rule of each
primitive. What has none (exponentials, divisions by activations: softmax, layer norm) is refused with its place.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mecq_jax.export._integer_grid._interpreter import Kind, Walk
from mecq_jax.export._integer_grid._operators import RULES
from mecq_jax.export._integer_grid._ranges import shortened
from mecq_jax.inference import Forward
from mecq_jax.storage import QuantizedTensor


@dataclasses.dataclass(frozen=True)
class Grid:
    """A network on an integer grid; `mecq_jax.export.integer_grid` makes one, and has the example.

    Attributes:
      forward: (arrays by path, x) -> output. Of the arrays it uses the quantized ones; the others are constants in it.
      tensors: `QuantizedTensor`s with their levels on the grid, and arrays, by path.
      largest: the largest sum that any input can make, in its units; at most 2^24.
    """

    forward: Forward
    tensors: dict[str, Any]
    largest: float


def integer_grid(
    forward: Forward, tensors: Mapping[str, Any], x: Any, *, level_bits: int = 8, activation_bits: int = 8
) -> Grid:
    """Put every number of a network on a grid, where float32 computes without rounding.

        number = z 2^e,  z an integer,  |any sum of such numbers| <= 2^24 2^e

    A network on it gives the same bits in JAX, ONNX Runtime and other runtimes, in any order of sums.

    Args:
      forward: (arrays by path, x) -> one array, as JAX computes it in float32.
      tensors: `QuantizedTensor`s and arrays by path.
      x: inputs as they come in use, [b, ...], which set the ranges of activations; take them from the training set.
      level_bits: bits of a level's integer with its sign, 2 to 8.
      activation_bits: bits of an activation where it meets weights, 2 to 8.

    Returns:
      The network on the grid, to be given to `mecq_jax.export.onnx` with tolerance=0.

    Raises:
      InexactError: where the network computes what runtimes do not compute alike, or a sum could exceed 2^24 units.
      ValueError: if a number of bits is out of bounds.

    Example:
      >>> import numpy as np
      >>> from mecq_jax import export
      >>> x = np.array([[0.5, -0.25]], np.float32)
      >>> grid = export.integer_grid(lambda arrays, x: 3.0 * x, {}, x)
      >>> grid.forward({}, x).tolist(), grid.largest <= 2**24
      ([[1.5, -0.75]], True)
    """
    for name, bits in (("level_bits", level_bits), ("activation_bits", activation_bits)):
        if not 2 <= bits <= 8:
            raise ValueError(f"{name} = {bits} must be 2 to 8; 8 costs the least accuracy")
    snapped = {name: snap(t, level_bits) if isinstance(t, QuantizedTensor) else t for name, t in tensors.items()}
    arrays = {n: jnp.asarray(t.dense() if isinstance(t, QuantizedTensor) else t) for n, t in snapped.items()}
    kinds = {n: Kind.WEIGHT if isinstance(t, QuantizedTensor) else Kind.KNOWN for n, t in snapped.items()}
    first = Walk(RULES, activation_bits)
    first(forward, kinds, arrays, jnp.asarray(x))

    def grid_forward(arrays: Mapping[str, Any], x: Any) -> Any:
        return Walk(RULES, activation_bits, first.choices)(forward, kinds, arrays, x)

    return Grid(grid_forward, snapped, first.largest)


def snap(tensor: QuantizedTensor, bits: int) -> QuantizedTensor:
    """Round a tensor's levels to small integers times a power of two, its codes as they are.

        level = z 2^e,  |z| < 2^(bits - 1),  one e for each group

    Args:
      tensor: of any levels.
      bits: of z with its sign, from 2.

    Returns:
      The tensor with its levels rounded.

    Example:
      >>> import numpy as np
      >>> from mecq_jax import PerTensor, export, storage
      >>> codes, levels = np.array([[0, 1, 2]], np.uint8), np.array([[-1.0, 0.3, 1.0]], np.float32)
      >>> tensor = storage.QuantizedTensor(codes, levels, (3,), PerTensor())
      >>> export.snap(tensor, bits=3).levels.tolist()
      [[-1.0, 0.5, 1.0]]
    """
    return dataclasses.replace(tensor, levels=shortened(tensor.levels, 2 ** (bits - 1) - 1, axis=1))
