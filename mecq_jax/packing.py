"""Packed codes, and the value type of a hard-quantized tensor.

The layout is the one that `mecq_jax.reader` documents to the bit and reads: 1, 2 and 4 bits little-endian
within each byte; 3 bits as a plane of the low two bits followed by a plane of the high bit; pad bits zero.
"""

import dataclasses
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from mecq_jax.grouping import Granularity, group_shape, to_spec
from mecq_jax.reader import QuantizedTensor, bits_for, packed_size, unpack

DTYPES = ("float16", "bfloat16", "float32", "float64")


def pack(codes: Shaped[np.ndarray, "..."] | Shaped[jax.Array, "..."], bits: int) -> UInt8[np.ndarray, " m"]:
    """The codes, uint8 of any shape in C order, as one stream of `packed_size(codes.size, bits)` bytes.

    Raises:
      ValueError: if the codes are not uint8, `bits` is not 1 to 4, or a code is 2**bits or more.
    """
    codes = np.asarray(codes)
    if codes.dtype != np.uint8:
        raise ValueError(f"codes must be uint8, not {codes.dtype}; cast them with .astype('uint8')")
    flat = codes.reshape(-1)
    out = np.zeros(packed_size(flat.size, bits), np.uint8)
    if flat.size and flat.max() >= 2**bits:
        index = tuple(int(i) for i in np.unravel_index(flat.argmax(), codes.shape))
        raise ValueError(
            f"code {flat.max()} at index {index} does not fit {bits} bits, which hold codes below {2**bits}; "
            "pack at the bits of its levels, bits_for(k)"
        )
    if bits == 3:
        low = packed_size(flat.size, 2)
        out[:low] = pack(flat & np.uint8(3), 2)
        out[low:] = pack(flat >> np.uint8(2), 1)
        return out
    per_byte = 8 // bits
    for i in range(per_byte):
        part = flat[i::per_byte]
        out[: part.size] |= part << np.uint8(i * bits)
    return out


@dataclasses.dataclass(frozen=True, eq=False)
class HardTensor:
    """A tensor whose weight j of group g is levels[g, codes[g, j]], laid out in `shape` by `granularity`.

    Attributes:
      codes: uint8 [g, n], each below k.
      levels: float32 [g, k], finite, 1 <= k <= 16.
      shape: the tensor's shape, with g·n weights.
      granularity: how the tensor is cut into groups.
      dtype: the dtype of the dense tensor, one of `DTYPES`.
    """

    codes: UInt8[np.ndarray, "g n"]
    levels: Float32[np.ndarray, "g k"]
    shape: tuple[int, ...]
    granularity: Granularity
    dtype: str = "float32"

    def __post_init__(self):
        codes, levels = np.asarray(self.codes), np.asarray(self.levels)
        shape = tuple(operator.index(d) for d in self.shape)
        for field, value in (("codes", codes), ("levels", levels), ("shape", shape)):
            object.__setattr__(self, field, value)
        expected = group_shape(shape, self.granularity)
        if codes.dtype != np.uint8 or codes.shape != expected:
            raise ValueError(
                f"codes of a tensor {shape} with {self.granularity} must be uint8 {expected}, "
                f"not {codes.dtype} {codes.shape}; lay them out with grouping.to_groups"
            )
        if levels.dtype != np.float32 or levels.ndim != 2 or len(levels) != expected[0]:
            raise ValueError(
                f"levels must be float32 [{expected[0]}, k], one row for each group, "
                f"not {levels.dtype} {list(levels.shape)}; cast or reshape them"
            )
        bits_for(levels.shape[1])
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {DTYPES}; give the dense tensor's dtype")
        with np.errstate(over="ignore"):
            finite = np.isfinite(levels.astype(jnp.dtype(self.dtype)).astype(np.float32))
        if not finite.all():
            g, k = (int(i) for i in np.argwhere(~finite)[0])
            raise ValueError(
                f"level {k} of group {g} is {levels[g, k]}, not finite in {self.dtype}; "
                "look for a divergence in training, or choose a wider dtype"
            )
        if codes.max() >= levels.shape[1]:
            g, n = (int(i) for i in np.unravel_index(codes.argmax(), codes.shape))
            raise ValueError(
                f"code {codes[g, n]} of weight {n} in group {g} must be below the {levels.shape[1]} levels; "
                "give the levels that the codes were assigned to"
            )

    @property
    def bits(self) -> int:
        """Bits of a packed code."""
        return bits_for(self.levels.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes and the levels."""
        return packed_size(self.codes.size, self.bits) + self.levels.nbytes

    def dense(self) -> Shaped[np.ndarray, "..."]:
        """The tensor in its own shape and dtype."""
        spec = to_spec(self.granularity)
        tensor = QuantizedTensor(self.codes, self.levels, self.shape, spec, self.bits, self.dtype)
        return tensor.dense().astype(jnp.dtype(self.dtype), copy=False)


__all__ = ["DTYPES", "HardTensor", "bits_for", "pack", "packed_size", "unpack"]
