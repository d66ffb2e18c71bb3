"""y = x W with W at 2 and 3 bits in memory, beside the dense product: chains of square layers on an accelerator.

python -m experiments.benchmarks packed_matmul [--tiny --out DIR]     minutes; goes on where it stopped

float32 dot, bf16 dot   dense weights
unpack, dot             packed weights made dense within the jitted chain, `x @ tensor.dense()`, x and W bfloat16
kernel                  `kernels.matmul`, x bfloat16
copy                    the kernel's bytes read once: half the time of adding 1 to them, which reads and writes

A chain is as many layers as make 256 MiB of weights at 2 bits, so that weights come from memory and not from a cache,
as in a network; times are of one layer. Goals at batch 1: 4 times faster than the bf16 dot, 1.5 times the copy. The
error is that of the kernel's first layer to unpack, dot, relative to the largest output.

On a CPU the kernel runs in Pallas's interpreter alone, which says nothing of speed: --tiny tries it at 128, and without
--tiny it is left out.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import measure
from experiments.reporting.measured import Pieces
from experiments.reporting.rows import Columns, Row
from mecq_jax import experimental
from mecq_jax.granularity import PerChannel
from mecq_jax.inference import PackedTensor
from mecq_reader import packed_size

SIZES, BATCHES, BITS = (4096, 8192, 16384), (1, 16), (2, 3)
CHAIN = 2**28  # bytes of weights at 2 bits
BASE = "bf16 dot"


def random_weights(size: int, bits: int) -> PackedTensor:
    """Random codes of `bits` bits and levels whose layer keeps the norm of x on average."""
    rng = np.random.default_rng(bits)
    data = jnp.asarray(rng.integers(0, 256, packed_size(size * size, bits), np.uint8))
    levels = jnp.asarray(rng.standard_normal((size, 2**bits), np.float32) / np.sqrt(np.float32(size)))
    return PackedTensor(data, levels, (size, size), PerChannel(), "bfloat16")


def dot(x: jax.Array, w: jax.Array) -> jax.Array:
    """x w in full precision of their type, accumulated in float32."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.dot(x, w, precision=precision, preferred_element_type=jnp.float32)


def chain(product: Callable[[Any, Any], Any], x: jax.Array, layers: list[Any]) -> jax.Array:
    """x through all layers, rounded to its type between them."""
    return functools.reduce(lambda x, w: product(x, w).astype(x.dtype), layers, x)


def copies(w: Any, count: int) -> list[Any]:
    """`count` layers of the same weights in memory of their own."""
    return [jax.tree.map(jnp.copy, w) for _ in range(count)]


def one_size(size: int, batch: int, layers: int, repeats: int, kernel: bool) -> list[Row]:
    """Rows of all forms at one size and batch; with the kernel or without."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((batch, size)), jnp.bfloat16)
    packed = {bits: random_weights(size, bits) for bits in BITS}
    dense = packed[2].dense()
    work, error, nbytes = {}, {}, {}

    def add(name: str, product: Callable, x: jax.Array, w: Any) -> None:
        ws = copies(w, layers)
        work[name] = measure.compiled(partial(chain, product), x, ws)
        nbytes[name] = sum(leaf.nbytes for leaf in jax.tree.leaves(w))
        print(f"{size} {batch} {name}: {work[name].first:.3g} s", flush=True)

    add(BASE, dot, x, dense)
    add("float32 dot", dot, x.astype(jnp.float32), dense.astype(jnp.float32))
    for bits, w in packed.items():
        add(f"unpack, dot, {bits} bits", lambda x, w: dot(x, w.dense()), x, w)
        if kernel:
            product = partial(experimental.packed_matmul, interpret=jax.default_backend() == "cpu")
            arranged, name = experimental.arrange(w), f"kernel, {bits} bits"
            expected = jax.jit(lambda x, w: dot(x, w.dense()))(x, w)
            error[name] = float(abs(jax.jit(product)(x, arranged) - expected).max() / abs(expected).max())
            add(name, product, x, arranged)
            planes = copies(arranged.planes, layers)
            work[f"copy, {bits} bits"] = measure.compiled(lambda planes: jax.tree.map(lambda p: p + 1, planes), planes)
    times = {name: t / layers for name, t in measure.seconds(work, repeats).items()}
    rows: list[Row] = []
    for name, product_bytes in nbytes.items():
        row = {
            "key": f"{size} {batch} {name}",
            "size": size,
            "batch": batch,
            "form": name,
            "layers": layers,
            "seconds": times[name],
            "faster": times[BASE] / times[name],
            "bytes": product_bytes,
        }
        if name in error:
            copy = times[name.replace("kernel", "copy")] / 2
            row |= {"error": error[name], "copy_seconds": copy, "of_copy": times[name] / copy}
        rows.append(row)
    return rows


def pieces(tiny: bool) -> Pieces:
    accelerator = jax.default_backend() in ("tpu", "gpu")
    if tiny:
        return {f"128 1 {BASE}": partial(one_size, 128, 1, 2, 1, True)}
    if not accelerator:
        print(f"The Pallas kernel needs a TPU or GPU; on a {jax.default_backend()} only the XLA forms are measured.")
    return {
        f"{size} {batch} {BASE}": partial(one_size, size, batch, 4 * CHAIN // size**2, 11, accelerator)
        for size in SIZES
        for batch in BATCHES
    }


COLUMNS: Columns = {
    "size": lambda r: str(r["size"]),
    "batch": lambda r: str(r["batch"]),
    "form": lambda r: r["form"],
    "a layer, us": lambda r: f"{1e6 * r['seconds']:.1f}",
    "times faster than bf16 dot": lambda r: f"{r['faster']:.2f}",
    "weights, MB": lambda r: f"{r['bytes'] / 1e6:.3g}",
    "times the copy": lambda r: f"{r['of_copy']:.2f}" if "of_copy" in r else "",
    "error": lambda r: f"{r['error']:.0e}" if "error" in r else "",
}
