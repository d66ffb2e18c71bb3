"""Packed codes, and the value type of a hard-quantized tensor.

The layout is the one that `mecq_jax.reader` documents to the bit and reads: 1, 2 and 4 bits little-endian
within each byte; 3 bits as a plane of the low two bits followed by a plane of the high bit; pad bits zero.
"""

import dataclasses
import operator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from mecq_jax.granularity import Granularity, group_shape, to_spec
from mecq_reader import Tensor, bits_for, packed_size

DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedTensor:
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
        tensor = Tensor(self.codes, self.levels, self.shape, spec, self.bits, self.dtype)
        return tensor.dense().astype(jnp.dtype(self.dtype), copy=False)
