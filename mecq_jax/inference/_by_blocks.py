"""Products with packed weights, which are unpacked block by block inside jit.

A product x W unpacks W by blocks of at most 2^18 weights (1 MiB in float32), whatever its size; convolutions and what
else is computed of a weight unpack that one weight, for the time of the call.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32, UInt8

from mecq_jax import jaxprs
from mecq_jax.granularity import PerChannel, PerTensor
from mecq_jax.inference._packed import Forward, PackedTensor, unpack
from mecq_reader import packed_size

BLOCK = 2**18  # weights unpacked at a time


def by_blocks(forward: Forward) -> Forward:
    """Make a network compute with packed weights, which products unpack block by block.

    A product x W unpacks W by blocks, as `mecq_jax.inference.matmul` does; what else is computed of a weight unpacks
    that one weight, for the time of the call.

    Args:
      forward: (arrays by path, x) -> output, a pure function.

    Returns:
      (weights by path, x) -> output, for weights among which are `PackedTensor`s.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from mecq_jax import PerTensor, inference, storage
      >>> codes, levels = np.array([[0, 1, 1]], np.uint8), np.array([[-1, 1]], np.float32)
      >>> weights = inference.to_device({"w": storage.QuantizedTensor(codes, levels, (3, 1), PerTensor())})
      >>> inference.by_blocks(lambda arrays, x: x @ arrays["w"])(weights, jnp.ones((1, 3)))
      Array([[1.]], dtype=float32)
    """

    def run(weights: Mapping[str, Any], x: Any) -> Any:
        leaves, tree = jax.tree.flatten((weights, x), is_leaf=lambda leaf: isinstance(leaf, PackedTensor))
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        traced, shape = jax.make_jaxpr(lambda *flat: forward(*jax.tree.unflatten(tree, flat)), return_shape=True)(
            *shapes
        )
        outs = jaxprs.interpret(traced.jaxpr, traced.consts, leaves, jnp.asarray, _equation)
        return jax.tree.unflatten(jax.tree.structure(shape), map(_whole, outs))

    return run


def _whole(x: Any) -> Any:
    """A value as an array."""
    return x.dense() if isinstance(x, PackedTensor) else x


def _equation(eqn: Any, inputs: list[Any], place: str) -> list[Any]:
    """The outputs of an equation: by blocks where it is a product with a packed weight."""
    if eqn.primitive.name == "dot_general" and isinstance(inputs[1], PackedTensor):
        x, w = _whole(inputs[0]), inputs[1]
        (cx, cw), batch = eqn.params["dimension_numbers"]
        if batch == ((), ()) and tuple(cw) == tuple(range(len(cw))) and _by_rows(w, len(cw)):
            aval = eqn.outvars[0].aval
            free = [i for i in range(x.ndim) if i not in cx]
            matrix = lax.transpose(x, [*free, *cx]).reshape(-1, math.prod(w.shape[: len(cw)]))
            return [matmul(matrix, w, eqn.params["precision"]).astype(aval.dtype).reshape(aval.shape)]
    return jaxprs.bind(eqn, list(map(_whole, inputs)))


def _by_rows(w: PackedTensor, contracted: int) -> bool:
    """Whether the codes lie in the file as rows of W or of W^T, W contracted over its first dimensions."""
    if isinstance(w.granularity, PerTensor):
        return True
    last = len(w.shape) - 1
    return isinstance(w.granularity, PerChannel) and w.granularity.axis % len(w.shape) == last == contracted


def matmul(x: Float[Array, "m a"], w: PackedTensor, precision: Any = None) -> Float[Array, "m b"]:
    """Multiply by a packed matrix W, which is unpacked by blocks of at most 2^18 weights, one after the other.

        levels per tensor            y = sum_blocks x[:, rows] W[rows]
        levels per output channel    y[:, columns] = x W[:, columns]

    Args:
      x: [m, a], any floating type; the products are of this type.
      w: W [a, ...], its first dimensions contracted and the others flattened to b; levels per tensor, or per channel
        of its last axis, which is then the only one that is not contracted.
      precision: of the product, as for `jax.lax.dot_general`.

    Returns:
      x W, [m, b], of x's type.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from mecq_jax import PerTensor, inference, storage
      >>> codes, levels = np.array([[0, 1, 1]], np.uint8), np.array([[-1, 1]], np.float32)
      >>> w = inference.PackedTensor.of(storage.QuantizedTensor(codes, levels, (3, 1), PerTensor()))
      >>> inference.matmul(jnp.ones((1, 3)), w)
      Array([[1.]], dtype=float32)
    """
    a = x.shape[1]
    b = math.prod(w.shape) // a
    per_tensor = isinstance(w.granularity, PerTensor)
    rows, columns = (a, b) if per_tensor else (b, a)
    block = min(max(BLOCK // columns // 8 * 8, 8), rows)  # whole bytes, and one loop for all whole blocks
    count, rest = divmod(rows, block)

    def add(y: Array, start: int | Array, size: int, codes: Array) -> Array:
        levels = w.levels[0] if per_tensor else lax.dynamic_slice_in_dim(w.levels, start, size)
        if per_tensor:
            part = lax.dynamic_slice_in_dim(x, start, size, axis=1)
            return y + jnp.dot(part, levels[codes].astype(x.dtype), precision=precision)
        weights = jnp.take_along_axis(levels, codes, axis=1, mode="clip").astype(x.dtype)
        return lax.dynamic_update_slice_in_dim(y, jnp.dot(x, weights.T, precision=precision), start, axis=1)

    def step(i: Array, y: Array) -> Array:
        return add(y, i * block, block, _codes(w, i, block, columns, rows))

    y: Array = lax.fori_loop(0, count, step, jnp.zeros((len(x), b), x.dtype))
    return add(y, count * block, rest, _codes(w, count, block, columns, rows, rest)) if rest else y


def _codes(
    w: PackedTensor, i: int | Array, block: int, columns: int, rows: int, count: int | None = None
) -> Int32[Array, "count columns"]:
    """Codes [count, columns] of the i-th block of `block` rows, of which the last may have fewer."""
    n = columns * (block if count is None else count)
    whole = block * columns  # a multiple of 8 where there is more than one block

    def plane(start: int, bits: int) -> UInt8[Array, " n"]:
        place = start + i * (whole * bits // 8)
        return unpack(lax.dynamic_slice_in_dim(w.data, place, packed_size(n, bits)), bits, n)

    if w.bits == 3:
        high = plane(packed_size(rows * columns, 2), 1)
        codes = plane(0, 2) | high << jnp.uint8(2)
    else:
        codes = plane(0, w.bits)
    out: Array = codes.reshape(-1, columns).astype(jnp.int32)
    return out
