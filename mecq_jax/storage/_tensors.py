"""The value type of a hard-quantized tensor: codes, levels, and how they make up an array."""

import dataclasses
import operator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from mecq_jax.granularity import Granularity, group_shape, to_spec
from mecq_reader import Tensor, bits_for, packed_size

DTYPES = ("float16", "bfloat16", "float32", "float64")  # of a dense tensor


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A tensor each of whose weights is one of the few levels of its group.

        weight j of group g = levels[g, codes[g, j]]

    The groups are laid out in `shape` by `granularity`, as by `mecq_jax.granularity.from_groups`. All that is said of
    the attributes is checked when a tensor is made, so that every `QuantizedTensor` can be packed and saved.

    Attributes:
      codes: uint8 [g, n], each below k.
      levels: float32 [g, k], finite in `dtype`, 1 <= k <= 16.
      shape: the tensor's shape, of g·n weights.
      granularity: how the tensor is cut into groups.
      dtype: the dtype of the dense tensor, one of `mecq_jax.storage.DTYPES`.

    Raises:
      ValueError: if one of them is not as it is said here; the message names the value and the remedy.

    Example:
      >>> import numpy as np
      >>> from mecq_jax import PerTensor, storage
      >>> codes, levels = np.array([[0, 1, 1, 2]], np.uint8), np.array([[-1.0, 0.0, 1.0]], np.float32)
      >>> tensor = storage.QuantizedTensor(codes, levels, (2, 2), PerTensor())
      >>> tensor.bits, tensor.dense().tolist()
      (2, [[-1.0, 0.0], [0.0, 1.0]])
    """

    codes: UInt8[np.ndarray, "g n"]
    levels: Float32[np.ndarray, "g k"]
    shape: tuple[int, ...]
    granularity: Granularity
    dtype: str = "float32"

    def __post_init__(self) -> None:
        codes, levels = np.asarray(self.codes), np.asarray(self.levels)
        shape = tuple(operator.index(d) for d in self.shape)
        for field, value in (("codes", codes), ("levels", levels), ("shape", shape)):
            object.__setattr__(self, field, value)
        expected = group_shape(shape, self.granularity)
        if codes.dtype != np.uint8 or codes.shape != expected:
            raise ValueError(
                f"codes of a tensor {shape} with {self.granularity} must be uint8 {expected}, "
                f"not {codes.dtype} {codes.shape}; lay them out with mecq_jax.granularity.to_groups"
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
        """Bits of a packed code: max(1, ceil(log2 k))."""
        return bits_for(self.levels.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes and the levels."""
        return packed_size(self.codes.size, self.bits) + self.levels.nbytes

    def dense(self) -> Shaped[np.ndarray, "..."]:
        """The tensor as an array of `shape` and `dtype`."""
        spec = to_spec(self.granularity)
        tensor = Tensor(self.codes, self.levels, self.shape, spec, self.bits, self.dtype)
        return tensor.dense().astype(jnp.dtype(self.dtype), copy=False)
