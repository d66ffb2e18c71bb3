"""Packed weights on the device: a pytree of uint8 bytes and levels that becomes dense inside jit.

weights = inference.to_device(storage.load("model.safetensors"))       # {path: PackedTensor or array}
logits = jax.jit(lambda weights, x: forward(inference.dense(weights), x))(weights, x)
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mecq_jax.granularity import Granularity, from_groups, group_shape
from mecq_jax.storage import QuantizedTensor, pack
from mecq_reader import bits_for, packed_size

Forward = Callable[[Mapping[str, Any], Any], Any]  # a network as a function of (arrays by path, inputs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedTensor:
    """A `mecq_jax.storage.QuantizedTensor` on the device, its codes packed as they lie in the file.

    It is a pytree of `data` and `levels`, the rest being static, so that it can be an argument of a jitted function.

    Attributes:
      data: uint8 [m], the packed codes, in the layout that `mecq_reader` documents.
      levels: float32 [g, k].
      shape: the dense tensor's shape.
      granularity: how it is cut into groups.
      dtype: the dense tensor's dtype.

    Example:
      >>> import numpy as np
      >>> from mecq_jax import PerTensor, inference, storage
      >>> codes, levels = np.array([[0, 1, 1, 0]], np.uint8), np.array([[-1, 1]], np.float32)
      >>> packed = inference.PackedTensor.of(storage.QuantizedTensor(codes, levels, (2, 2), PerTensor()))
      >>> packed.data, packed.dense().tolist()
      (Array([6], dtype=uint8), [[-1.0, 1.0], [1.0, -1.0]])
    """

    data: UInt8[Array, " m"]
    levels: Float[Array, "g k"]
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    granularity: Granularity = dataclasses.field(metadata={"static": True})
    dtype: str = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, tensor: QuantizedTensor) -> "PackedTensor":
        """The tensor with its codes packed, on the default device."""
        data = jnp.asarray(pack(tensor.codes, tensor.bits))
        return cls(data, jnp.asarray(tensor.levels), tensor.shape, tensor.granularity, tensor.dtype)

    @property
    def bits(self) -> int:
        """Bits of a code: max(1, ceil(log2 k))."""
        return bits_for(self.levels.shape[1])

    def codes(self) -> UInt8[Array, "g n"]:
        """The codes, unpacked."""
        g, n = group_shape(self.shape, self.granularity)
        return unpack(self.data, self.bits, g * n).reshape(g, n)

    def dense(self) -> Array:
        """The tensor as an array of `shape` and `dtype`, equal to `QuantizedTensor.dense()`.

        Types of 64 bits become those of 32 unless JAX is set to have them.
        """
        weights = jnp.take_along_axis(self.levels, self.codes().astype(jnp.int32), axis=1, mode="clip")
        return from_groups(weights, self.shape, self.granularity).astype(jax.dtypes.canonicalize_dtype(self.dtype))


def unpack(data: UInt8[Array, " m"], bits: int, n: int) -> UInt8[Array, " n"]:
    """Unpack a stream of codes by shifts, inside jit; it equals `mecq_reader.unpack`, which checks as well.

    Args:
      data: uint8 [m], m = `mecq_jax.storage.packed_size(n, bits)`.
      bits: of a code, 1 to 4.
      n: how many codes there are.

    Returns:
      uint8 [n].

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax import inference
      >>> inference.unpack(jnp.array([147, 1], jnp.uint8), 2, 5)
      Array([3, 0, 1, 2, 1], dtype=uint8)
    """
    if bits == 3:
        low = packed_size(n, 2)
        return unpack(data[:low], 2, n) | unpack(data[low:], 1, n) << np.uint8(2)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (data[:, None] >> shifts[None] & np.uint8(2**bits - 1)).reshape(-1)[:n]


def to_device(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the tensors of a file to the default device, packed ones packed.

    Args:
      tensors: `QuantizedTensor` or array by path, as `mecq_jax.load` gives them.

    Returns:
      `PackedTensor` or JAX array by path.

    Example:
      >>> import numpy as np
      >>> from mecq_jax import inference
      >>> inference.to_device({"bias": np.ones(2, np.float32)})
      {'bias': Array([1., 1.], dtype=float32)}
    """
    return {
        name: PackedTensor.of(x) if isinstance(x, QuantizedTensor) else jnp.asarray(x) for name, x in tensors.items()
    }


def dense(weights: Mapping[str, Any]) -> dict[str, Array]:
    """Unpack all weights; inside jit, so that what stays in memory between calls is packed.

    Args:
      weights: `PackedTensor` or array by path, as `mecq_jax.inference.to_device` gives them.

    Returns:
      Array by path.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from mecq_jax import PerTensor, inference, storage
      >>> codes, levels = np.array([[0, 1, 1]], np.uint8), np.array([[-1, 1]], np.float32)
      >>> weights = inference.to_device({"w": storage.QuantizedTensor(codes, levels, (3,), PerTensor())})
      >>> jax.jit(inference.dense)(weights)
      {'w': Array([-1.,  1.,  1.], dtype=float32)}
    """
    return {name: x.dense() if isinstance(x, PackedTensor) else x for name, x in weights.items()}
