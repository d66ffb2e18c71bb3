"""Packed weights on the device: a pytree of uint8 bytes and levels that becomes dense inside jit.

weights = to_device(artifact.load("model.safetensors"))       # {path: PackedTensor or array}
logits = jax.jit(lambda weights, x: forward(dense(weights), x))(weights, x)
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
    """A hard-quantized tensor as it lies in the file.

    Attributes:
      data: the packed codes, in the layout that `reader` documents.
      levels: float32 [g, k].
      shape: the dense tensor's shape.
      granularity: how it is cut into groups.
      dtype: the dense tensor's dtype.
    """

    data: UInt8[Array, " m"]
    levels: Float[Array, "g k"]
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    granularity: Granularity = dataclasses.field(metadata={"static": True})
    dtype: str = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, tensor: QuantizedTensor) -> "PackedTensor":
        """The tensor packed, on the default device."""
        data = jnp.asarray(pack(tensor.codes, tensor.bits))
        return cls(data, jnp.asarray(tensor.levels), tensor.shape, tensor.granularity, tensor.dtype)

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return bits_for(self.levels.shape[1])

    def codes(self) -> UInt8[Array, "g n"]:
        """The codes, unpacked."""
        g, n = group_shape(self.shape, self.granularity)
        return unpack(self.data, self.bits, g * n).reshape(g, n)

    def dense(self) -> Array:
        """levels[g, codes] in the tensor's shape and dtype (of 64 bits as JAX is set), as `HardTensor.dense()`."""
        weights = jnp.take_along_axis(self.levels, self.codes().astype(jnp.int32), axis=1, mode="clip")
        return from_groups(weights, self.shape, self.granularity).astype(jax.dtypes.canonicalize_dtype(self.dtype))


def unpack(data: UInt8[Array, " m"], bits: int, n: int) -> UInt8[Array, " n"]:
    """The n codes of a packed stream, as `reader.unpack` gives them, by shifts inside jit."""
    if bits == 3:
        low = packed_size(n, 2)
        return unpack(data[:low], 2, n) | unpack(data[low:], 1, n) << np.uint8(2)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (data[:, None] >> shifts[None] & np.uint8(2**bits - 1)).reshape(-1)[:n]


def to_device(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """`HardTensor`s as `PackedTensor`s, arrays as arrays of the default device."""
    return {
        name: PackedTensor.of(x) if isinstance(x, QuantizedTensor) else jnp.asarray(x) for name, x in tensors.items()
    }


def dense(weights: Mapping[str, Any]) -> dict[str, Array]:
    """Every weight as a dense array."""
    return {name: x.dense() if isinstance(x, PackedTensor) else x for name, x in weights.items()}
