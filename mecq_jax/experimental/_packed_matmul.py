"""The product y = x W on an accelerator, W at its packed bits in memory: one Pallas kernel for TPU and GPU.

    arranged = experimental.arrange(weights["dense/kernel"])           # once, after loading: PackedTensor -> Arranged
    y = jax.jit(experimental.packed_matmul)(x, arranged)

Codes become weights in registers, so that memory moves 1 to 4 bits a weight. No indexing of a table is common to Mosaic
(TPU) and Triton (GPU), hence a tree of selects: the code's lowest bit halves the levels, the next bit what is left, and
so on. `_arranged` has the layout of the codes.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Float32, Int32

from mecq_jax.experimental._arranged import CHUNK, LANES, LEAST, Arranged, backend, rounded_up

SUMMED = 4  # rows of x up to which a GPU multiplies and adds without its matrix unit, which takes 16
PROGRAMS = 512  # that keep a large GPU's memory busy


class Plan(NamedTuple):
    """How the product is cut: a program takes `rows` x `columns` of y over one of `splits` pieces of the rows of W.

    Attributes:
      platform: 'tpu' or 'gpu'.
      rows: of y in a program.
      columns: of y in a program.
      splits: programs that share one contraction.
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
    """Multiply by a packed matrix on a TPU or a GPU, its codes unpacked in registers.

        y = x W,  W[i, n] = levels[n, codes[i, n]] rounded to x's dtype; products and sums in float32

    Elsewhere use `x @ tensor.dense()`, which is also the form to differentiate.

    Args:
      x: float32 or bfloat16 [m, a], m >= 1.
      arranged: W [a, b].
      interpret: run in Pallas's interpreter, slowly, on any platform.
      platform: 'tpu' or 'gpu', for which it is compiled (None: the default backend).
      columns: of y in a program, a power of two from 16 (128 on a TPU) that divides b padded to 128.
      splits: programs that share one contraction, whose sums are added after; it divides the tiles of W.

    Returns:
      y, float32 [m, b].

    Raises:
      ValueError: if x does not fit W or is of another dtype, the platform is another, or `columns` or `splits` is no
        such number.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from mecq_jax import PerTensor, experimental, storage
      >>> codes, levels = np.array([[0, 1, 1, 1]], np.uint8), np.array([[-1, 1]], np.float32)
      >>> arranged = experimental.arrange(storage.QuantizedTensor(codes, levels, (2, 2), PerTensor()))
      >>> experimental.packed_matmul(jnp.ones((1, 2)), arranged, interpret=True)
      Array([[0., 2.]], dtype=float32)
    """
    a, b = arranged.shape
    if x.ndim != 2 or x.shape[1] != a or len(x) == 0:
        raise ValueError(f"x of shape {x.shape} does not fit W of shape {arranged.shape}; give x as [m, {a}], m >= 1")
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"x is {x.dtype}; cast it to float32 or bfloat16")
    platform = backend(platform)
    if platform not in CHUNK:
        if not interpret:
            raise ValueError(f"the kernel runs on tpu and gpu, not {platform}; use x @ tensor.dense()")
        platform = "gpu"
    plan, m = _plan(x, arranged, platform, columns, splits), len(x)
    x = jnp.pad(x, ((0, rounded_up(m, plan.rows) - m), (0, rounded_up(a, arranged.tile) - a)))
    # Each chunk of x is a matrix of its own, since a kernel cannot slice lanes at any place.
    x = x.reshape(len(x), -1, arranged.chunk).swapaxes(0, 1)
    return _call(x, arranged, plan, interpret).sum(axis=0)[:m, :b]


def _plan(x: Array, arranged: Arranged, platform: str, columns: int | None, splits: int | None) -> Plan:
    """The plan; what is None is chosen for the platform."""
    m, width = len(x), arranged.planes[0].shape[1]
    tiles = rounded_up(arranged.shape[0], arranged.tile) // arranged.tile
    divisors = [d for d in range(1, tiles + 1) if tiles % d == 0]
    if platform == "tpu":
        # 2 MiB of x and 6 of codes fit a core's vector memory twice, as the next block is fetched during this one.
        least, dot, rows = LANES, True, min(128, rounded_up(m, LEAST))
        columns = columns or max(c for c in (128, 256, 512) if width % c == 0)
        piece = min(2**14, 2**19 // rows)
        splits = splits or next((d for d in divisors if tiles // d * arranged.tile <= piece), tiles)
    else:
        least, dot = LEAST, m > SUMMED
        rows = min(32, rounded_up(m, LEAST)) if dot else m
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
    sums = jax.ShapeDtypeStruct((plan.splits, m, width), jnp.float32)
    out: Array = pl.pallas_call(
        functools.partial(_kernel, widths=arranged.widths, dot=plan.dot),
        out_shape=sums,
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
    return out


def _kernel(x_ref: Any, table_ref: Any, *refs: Any, widths: tuple[int, ...], dot: bool) -> None:
    """Write y = sum over chunks of x[chunk] @ W[chunk]; without `dot` a chunk's rows are summed last."""
    *plane_refs, y_ref = refs
    chunk, per_tile = x_ref.shape[2], 32 // min(widths)
    (k, g), (rows, columns) = table_ref.shape, y_ref.shape
    levels = [table_ref[j, 0] if g == 1 else table_ref[j : j + 1, :] for j in range(k)]

    def words(ref: Any, width: int, t: Array) -> list[Array]:
        """The words of tile t, by R rows."""
        parts = width // min(widths)
        return [ref[pl.ds((t * parts + h) * chunk, chunk), :] for h in range(parts)]

    def add_tile(t: Array, y: Any) -> Any:
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
    """Whether that bit of each word is set."""
    return words & np.uint32(1 << bit).astype(np.int32) != np.int32(0)


def select(levels: Sequence[Array], bits: Sequence[Array]) -> Array:
    """levels[sum_i 2^i bits_i] by a tree of selects, for codes below len(levels)."""
    for bit in bits:
        pairs = [levels[i : i + 2] for i in range(0, len(levels), 2)]
        levels = [jnp.where(bit, pair[1], pair[0]) if len(pair) == 2 else pair[0] for pair in pairs]
    return levels[0]


def _dot(x: Float[Array, "m r"], w: Float32[Array, "r n"]) -> Float32[Array, "m n"]:
    """The product x w, with w in x's dtype, which holds its values exactly, in full precision."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else lax.Precision.DEFAULT
    return jnp.dot(x, w.astype(x.dtype), precision=precision, preferred_element_type=jnp.float32)
