"""The layout in which the product with packed weights reads them.

The rows of W are cut into chunks of R, and a tile is 32 chunks (16 at 2 bits, 8 at 4). Codes of 1, 2 and 4
bits make one plane; codes of 3 bits two, their low two bits and their high bit. In a plane of `width` bits an int32
word holds 32 / width codes of one column, low bits first: with P = tile · width / 32 words of the plane to a tile and
column, the code of the tile's row i + j P is field j of word i. So the codes of a chunk lie in R rows of words, at the
same bits of each, which masks of constants test; nothing is shifted, interleaved or reshaped. Rows are padded to whole
tiles, where x is zero, and columns to a multiple of 128.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32, Int32, UInt8

from mecq_jax.granularity import PerChannel, PerTensor, describe, from_groups
from mecq_jax.inference import PackedTensor
from mecq_jax.storage import QuantizedTensor, bits_for

WIDTHS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,)}  # bits of a code: of its planes, low bits first
LANES = 128  # columns are padded to a multiple of a TPU register's
LEAST = 16  # rows and columns that matrix units take at least
# Rows of a chunk at most: on a TPU a side of the matrix unit; on a GPU more spill registers.
CHUNK = {"tpu": 128, "gpu": 16}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Arranged:
    """A packed matrix W [a, b] in the layout of the product; `mecq_jax.experimental.arrange` makes one.

    It is a pytree of `planes` and `table`, so that it can be an argument of a jitted function.

    Attributes:
      planes: int32 [words, columns] each, columns being b padded to a multiple of 128.
      table: the levels, float32 [k, 1] per tensor or [k, columns] per output channel.
      shape: (a, b).
      chunk: R, the rows that are unpacked at a time.

    Example:
      >>> import numpy as np
      >>> from mecq_jax import PerTensor, experimental, storage
      >>> codes, levels = np.zeros((1, 8), np.uint8), np.array([[-1, 1]], np.float32)
      >>> tensor = storage.QuantizedTensor(codes, levels, (4, 2), PerTensor())
      >>> arranged = experimental.arrange(tensor, chunk=16)
      >>> arranged.shape, arranged.tile, [plane.shape for plane in arranged.planes]
      ((4, 2), 512, [(16, 128)])
    """

    planes: tuple[Int32[Array, "_ columns"], ...]
    table: Float32[Array, "k g"]
    shape: tuple[int, int] = dataclasses.field(metadata={"static": True})
    chunk: int = dataclasses.field(metadata={"static": True})

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits of a code in each plane."""
        return WIDTHS[bits_for(self.table.shape[0])]

    @property
    def tile(self) -> int:
        """Rows of a tile."""
        return tile_rows(self.chunk, self.widths)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and the levels, padding included."""
        return sum(x.nbytes for x in (*self.planes, self.table))


def arrange(
    tensor: PackedTensor | QuantizedTensor, *, chunk: int | None = None, platform: str | None = None
) -> Arranged:
    """Lay out a matrix's codes and levels for `mecq_jax.experimental.packed_matmul`, on the default device.

    Args:
      tensor: a matrix W [a, b] with levels per tensor or per output channel (its last axis).
      chunk: R, rows, a power of two from 16 (None: the largest for the platform that pads no more than 16 does).
      platform: 'tpu' or 'gpu', where it will be used (None: the default backend; a CPU arranges as for a GPU).

    Returns:
      W in the layout of the product: as many bytes as its packed codes and its levels, but for padding.

    Raises:
      ValueError: if the tensor is no matrix, its groups are others, or the chunk is no such number.

    Example:
      >>> import numpy as np
      >>> from mecq_jax import PerTensor, experimental, storage
      >>> codes, levels = np.zeros((1, 512 * 128), np.uint8), np.array([[-1, 1]], np.float32)
      >>> tensor = storage.QuantizedTensor(codes, levels, (512, 128), PerTensor())
      >>> experimental.arrange(tensor, platform="gpu").nbytes == tensor.nbytes
      True
    """
    tensor = PackedTensor.of(tensor) if isinstance(tensor, QuantizedTensor) else tensor
    if len(tensor.shape) != 2:
        raise ValueError(f"a tensor of shape {tensor.shape} is no matrix [a, b]; reshape it, or use tensor.dense()")
    if tensor.granularity not in (PerTensor(), PerChannel(-1), PerChannel(1)):
        raise ValueError(
            f"the kernel takes levels per tensor or per channel of the last axis, not {describe(tensor.granularity)}; "
            "use x @ tensor.dense()"
        )
    (a, b), widths = tensor.shape, WIDTHS[tensor.bits]
    if chunk is None:
        most = CHUNK["tpu" if backend(platform) == "tpu" else "gpu"]
        sizes = [r for r in (16, 32, 64, 128) if r <= most]
        chunk = max(r for r in sizes if rounded_up(a, tile_rows(r, widths)) == rounded_up(a, tile_rows(LEAST, widths)))
    if chunk < LEAST or chunk.bit_count() != 1:
        raise ValueError(f"a chunk of {chunk} rows is no power of two from {LEAST}; leave it out for the default")
    tile, columns = tile_rows(chunk, widths), rounded_up(b, LANES)
    codes = from_groups(tensor.codes(), tensor.shape, tensor.granularity)
    codes = jnp.pad(codes, ((0, rounded_up(a, tile) - a), (0, columns - b)))
    starts = (0, *np.cumsum(widths).tolist())
    planes = tuple(_plane(codes, start, width, tile) for start, width in zip(starts, widths, strict=False))
    table = tensor.levels.T
    if not isinstance(tensor.granularity, PerTensor):
        table = jnp.pad(table, ((0, 0), (0, columns - b)))
    return Arranged(planes, table, (a, b), chunk)


def tile_rows(chunk: int, widths: Sequence[int]) -> int:
    """Rows of a tile: those whose codes fill whole words of the narrowest plane."""
    return chunk * 32 // min(widths)


def rounded_up(n: int, unit: int) -> int:
    """The least multiple of `unit` that is at least n."""
    return -(-n // unit) * unit


def backend(platform: str | None) -> str:
    """The platform, or the default backend."""
    return jax.default_backend() if platform is None else platform


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _plane(codes: UInt8[Array, "rows columns"], start: int, width: int, tile: int) -> Int32[Array, "words columns"]:
    """The plane of the codes' bits start, ..., start + width - 1."""
    rows, columns = codes.shape
    fields = codes >> np.uint8(start) & np.uint8(2**width - 1)
    fields = fields.reshape(rows // tile, 32 // width, -1, columns)  # tile, j, i, column
    words = jnp.zeros_like(fields[:, 0], dtype=jnp.uint32)
    for j in range(32 // width):
        words |= fields[:, j].astype(jnp.uint32) << np.uint32(width * j)
    return lax.bitcast_convert_type(words, jnp.int32).reshape(-1, columns)
