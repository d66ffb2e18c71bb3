"""y = x W on an accelerator, W at its packed bits in memory: one Pallas kernel for TPU (Mosaic) and GPU (Triton).

    arranged = kernels.arrange(weights["dense/kernel"])           # once, after loading: PackedTensor -> Arranged
    y = jax.jit(kernels.matmul)(x, arranged)

Codes become weights in registers, so that memory moves 1 to 4 bits a weight. No indexing of a table is common to Mosaic
and Triton, hence a tree of selects: the code's lowest bit halves the levels, the next bit what is left, and so on.

Layout. The rows of W are cut into chunks of R, and a tile is 32 chunks (16 at 2 bits, 8 at 4). Codes of 1, 2 and 4
bits make one plane; codes of 3 bits two, their low two bits and their high bit. In a plane of `width` bits an int32
word holds 32 / width codes of one column, low bits first: with P = tile · width / 32 words of the plane to a tile and
column, the code of the tile's row i + j P is field j of word i. So the codes of a chunk lie in R rows of words, at the
same bits of each, which masks of constants test; nothing is shifted, interleaved or reshaped. Rows are padded to whole
tiles, where x is zero, and columns to a multiple of 128.

Without an accelerator use `x @ tensor.dense()`, which is also the form to differentiate.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Float32, Int32, UInt8

from mecq_jax.granularity import PerChannel, PerTensor, describe, from_groups
from mecq_jax.inference import PackedTensor
from mecq_jax.storage import QuantizedTensor
from mecq_reader import bits_for

WIDTHS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,)}  # bits of a code: of its planes, low bits first
LANES = 128  # columns are padded to a multiple of a TPU register's
LEAST = 16  # rows and columns that matrix units take at least
# Rows of a chunk at most: on a TPU a side of the matrix unit; on a GPU more spill registers.
CHUNK = {"tpu": 128, "gpu": 16}
SUMMED = 4  # rows of x up to which a GPU multiplies and adds without its matrix unit, which takes 16
PROGRAMS = 512  # that keep a large GPU's memory busy


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Arranged:
    """A packed matrix W [a, b] in the kernel's layout.

    Attributes:
      planes: int32 [words, columns] each, columns being b padded.
      table: the levels, float32 [k, 1] per tensor or [k, columns] per output channel.
      shape: (a, b).
      chunk: R, rows.
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
        return _tile(self.chunk, self.widths)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and the levels, padding included."""
        return sum(x.nbytes for x in (*self.planes, self.table))


def arrange(
    tensor: PackedTensor | QuantizedTensor, *, chunk: int | None = None, platform: str | None = None
) -> Arranged:
    """The tensor's codes and levels in the kernel's layout, on the default device.

    Args:
      tensor: a matrix [a, b] with levels per tensor or per output channel (its last axis).
      chunk: R, rows, a power of two from 16 (None: the largest for the platform that pads no more than 16 does).
      platform: 'tpu' or 'gpu', where it will be used (None: the default backend; a CPU arranges as for a GPU).

    Raises:
      ValueError: if the tensor is no matrix, its groups are others, or the chunk is no such number.
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
        most = CHUNK["tpu" if _backend(platform) == "tpu" else "gpu"]
        sizes = [r for r in (16, 32, 64, 128) if r <= most]
        chunk = max(r for r in sizes if _up(a, _tile(r, widths)) == _up(a, _tile(LEAST, widths)))
    if chunk < LEAST or chunk.bit_count() != 1:
        raise ValueError(f"a chunk of {chunk} rows is no power of two from {LEAST}; leave it out for the default")
    tile, columns = _tile(chunk, widths), _up(b, LANES)
    codes = from_groups(tensor.codes(), tensor.shape, tensor.granularity)
    codes = jnp.pad(codes, ((0, _up(a, tile) - a), (0, columns - b)))
    starts = (0, *np.cumsum(widths).tolist())
    planes = tuple(_plane(codes, start, width, tile) for start, width in zip(starts, widths, strict=False))
    table = tensor.levels.T
    if not isinstance(tensor.granularity, PerTensor):
        table = jnp.pad(table, ((0, 0), (0, columns - b)))
    return Arranged(planes, table, (a, b), chunk)


def _tile(chunk: int, widths: Sequence[int]) -> int:
    return chunk * 32 // min(widths)


def _up(n: int, unit: int) -> int:
    """n, or the next multiple of `unit`."""
    return -(-n // unit) * unit


def _backend(platform: str | None) -> str:
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


class Plan(NamedTuple):
    """How the product is cut: a program takes `rows` x `columns` of y over one of `splits` pieces of the rows of W.

    dot: by the matrix unit, rather than by multiplying and adding.
    """

    platform: str
    rows: int
    columns: int
    splits: int
    dot: bool


def packed_matmul(
    x: Float[Array, "m a"],
    arranged: Arranged,
    *,
    interpret: bool = False,
    platform: str | None = None,
    columns: int | None = None,
    splits: int | None = None,
) -> Float32[Array, "m b"]:
    """y = x W, W[i, n] = levels[n, codes[i, n]] rounded to x's dtype; products and sums in float32.

    Args:
      x: float32 or bfloat16 [m, a].
      arranged: W [a, b].
      interpret: run in Pallas's interpreter, slowly, on any platform.
      platform: 'tpu' or 'gpu', for which it is compiled (None: the default backend).
      columns: of y in a program, a power of two from 16 (128 on a TPU) that divides b padded to 128.
      splits: programs that share one contraction, whose sums are added after; it divides the tiles of W.

    Raises:
      ValueError: if x does not fit W or is of another dtype, the platform is another, or `columns` or `splits` is no
        such number.
    """
    a, b = arranged.shape
    if x.ndim != 2 or x.shape[1] != a or len(x) == 0:
        raise ValueError(f"x of shape {x.shape} does not fit W of shape {arranged.shape}; give x as [m, {a}], m >= 1")
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"x is {x.dtype}; cast it to float32 or bfloat16")
    platform = _backend(platform)
    if platform not in CHUNK:
        if not interpret:
            raise ValueError(f"the kernel runs on tpu and gpu, not {platform}; use x @ tensor.dense()")
        platform = "gpu"
    plan, m = _plan(x, arranged, platform, columns, splits), len(x)
    x = jnp.pad(x, ((0, _up(m, plan.rows) - m), (0, _up(a, arranged.tile) - a)))
    # Each chunk of x is a matrix of its own, since a kernel cannot slice lanes at any place.
    x = x.reshape(len(x), -1, arranged.chunk).swapaxes(0, 1)
    return _call(x, arranged, plan, interpret).sum(axis=0)[:m, :b]


def _plan(x: Array, arranged: Arranged, platform: str, columns: int | None, splits: int | None) -> Plan:
    """The plan; what is None is chosen for the platform."""
    m, width = len(x), arranged.planes[0].shape[1]
    tiles = _up(arranged.shape[0], arranged.tile) // arranged.tile
    divisors = [d for d in range(1, tiles + 1) if tiles % d == 0]
    if platform == "tpu":
        # 2 MiB of x and 6 of codes fit a core's vector memory twice, as the next block is fetched during this one.
        least, dot, rows = LANES, True, min(128, _up(m, LEAST))
        columns = columns or max(c for c in (128, 256, 512) if width % c == 0)
        piece = min(2**14, 2**19 // rows)
        splits = splits or next((d for d in divisors if tiles // d * arranged.tile <= piece), tiles)
    else:
        least, dot = LEAST, m > SUMMED
        rows = min(32, _up(m, LEAST)) if dot else m
        # Float32 has no matrix unit of full precision: the dot is multiplications, which spill more registers.
        columns = columns or (64 if dot and x.dtype == jnp.float32 else 128)
        programs = -(-m // rows) * (width // columns)
        splits = splits or next((d for d in divisors if d * programs >= PROGRAMS), tiles)
    if columns < least or columns.bit_count() != 1 or width % columns:
        raise ValueError(f"{columns} columns are no power of two from {least} that divides {width}; leave them out")
    if splits not in divisors:
        raise ValueError(f"{splits} splits do not divide the {tiles} tiles of W; choose one of {divisors}")
    return Plan(platform, rows, columns, splits, dot)


def _call(x: Float[Array, "c m r"], arranged: Arranged, plan: Plan, interpret: bool) -> Float32[Array, "s m columns"]:
    """The kernel over the grid (rows of x, columns of W, splits); each split's sum."""
    (chunks, m, chunk), (k, g) = x.shape, arranged.table.shape
    width = arranged.planes[0].shape[1]
    params: Any
    if plan.platform == "tpu":
        from jax.experimental.pallas import tpu as pltpu

        params, scalars = pltpu.CompilerParams(dimension_semantics=("parallel",) * 3), pltpu.SMEM
    else:
        from jax.experimental.pallas import triton as pltriton

        params, scalars = pltriton.CompilerParams(num_warps=8, num_stages=2), None
    if g == 1:
        table = pl.BlockSpec((k, 1), lambda i, j, s: (0, 0), memory_space=scalars)
    else:
        table = pl.BlockSpec((k, plan.columns), lambda i, j, s: (0, j))
    return pl.pallas_call(
        functools.partial(_kernel, widths=arranged.widths, dot=plan.dot),
        out_shape=jax.ShapeDtypeStruct((plan.splits, m, width), jnp.float32),
        grid=(m // plan.rows, width // plan.columns, plan.splits),
        in_specs=[
            pl.BlockSpec((chunks // plan.splits, plan.rows, chunk), lambda i, j, s: (s, i, 0)),
            table,
            *(pl.BlockSpec((len(p) // plan.splits, plan.columns), lambda i, j, s: (s, j)) for p in arranged.planes),
        ],
        out_specs=pl.BlockSpec((None, plan.rows, plan.columns), lambda i, j, s: (s, i, j)),
        compiler_params=params,
        interpret=interpret,
    )(x, arranged.table.astype(x.dtype).astype(jnp.float32), *arranged.planes)


def _kernel(x_ref: Any, table_ref: Any, *refs: Any, widths: tuple[int, ...], dot: bool) -> None:
    """y = sum over chunks of x[chunk] @ W[chunk]; without `dot` the sum over a chunk's rows is taken at the end."""
    *plane_refs, y_ref = refs
    chunk, per_tile = x_ref.shape[2], 32 // min(widths)
    (k, g), (rows, columns) = table_ref.shape, y_ref.shape
    levels = [table_ref[j, 0] if g == 1 else table_ref[j : j + 1, :] for j in range(k)]

    def words(ref, width, t):
        """The words of tile t, by R rows."""
        parts = width // min(widths)
        return [ref[pl.ds((t * parts + h) * chunk, chunk), :] for h in range(parts)]

    def add_tile(t, y):
        planes = [words(ref, width, t) for ref, width in zip(plane_refs, widths, strict=True)]
        for c in range(per_tile):
            bits = []
            for parts, width in zip(planes, widths, strict=True):
                j, part = divmod(c, len(parts))  # row c R of the tile is row `part` R of the words, field j
                bits += [_bit(parts[part], width * j + bit) for bit in range(width)]
            w = jnp.broadcast_to(select(levels, bits), (chunk, columns))
            n = t * per_tile + c
            if dot:
                y = y + _dot(x_ref[n], w)
            else:
                y = [y[r] + x_ref[n, r, :].astype(jnp.float32)[:, None] * w for r in range(rows)]
        return y

    zero = jnp.zeros((rows, columns) if dot else (chunk, columns), jnp.float32)
    y = lax.fori_loop(0, x_ref.shape[0] // per_tile, add_tile, zero if dot else [zero] * rows)
    if dot:
        y_ref[...] = y
    else:
        for r in range(rows):
            y_ref[r, :] = y[r].sum(axis=0)


def _bit(words: Int32[Array, "r n"], bit: int) -> Bool[Array, "r n"]:
    return words & np.uint32(1 << bit).astype(np.int32) != np.int32(0)


def select(levels: Sequence[Array], bits: Sequence[Array]) -> Array:
    """levels[sum_i 2^i bits_i] by a tree of selects, for codes below len(levels)."""
    for bit in bits:
        pairs = [levels[i : i + 2] for i in range(0, len(levels), 2)]
        levels = [jnp.where(bit, pair[1], pair[0]) if len(pair) == 2 else pair[0] for pair in pairs]
    return levels[0]


def _dot(x: Float[Array, "m r"], w: Float32[Array, "r n"]) -> Float32[Array, "m n"]:
    """x w with w in x's dtype, which holds its values exactly, in full precision."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else lax.Precision.DEFAULT
    return jnp.dot(x, w.astype(x.dtype), precision=precision, preferred_element_type=jnp.float32)
