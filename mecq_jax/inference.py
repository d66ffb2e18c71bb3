"""Networks from packed files, ready to be called.

    model = inference.load("model.safetensors", forward)                 # weights unpacked once, on the device
    model = inference.load("model.safetensors", forward, packed=True)    # weights stay packed on the device
    logits = model(x)

`forward` is a pure function of (arrays by path, x), such as `layers.functional(model)`. With packed=True a product
x W unpacks W by blocks of at most 2^18 weights (1 MiB in float32), whatever its size; convolutions and what else is
computed of a weight unpack that one weight, for the time of the call.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mecq_jax import artifact, jaxprs
from mecq_jax.grouping import PerChannel, PerTensor
from mecq_jax.packed import Forward, PackedTensor, dense, to_device, unpack
from mecq_jax.packing import packed_size

BLOCK = 2**18  # weights unpacked at a time


@dataclasses.dataclass(frozen=True)
class Model:
    """A network and its weights.

    Attributes:
      apply: (weights, x) -> output, jitted.
      weights: by path, on the device: arrays, and `PackedTensor`s if they stay packed.
    """

    apply: Callable[[Mapping[str, Any], Any], Any]
    weights: Mapping[str, Any]

    def __call__(self, x: Any) -> Any:
        """The network's output."""
        return self.apply(self.weights, x)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights on the device."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.weights))


def load(path: str | os.PathLike, forward: Forward, *, packed: bool = False) -> Model:
    """The network of a packed file.

    Args:
      path: a file that `artifact.save` wrote.
      forward: (arrays by path, x) -> output.
      packed: whether the weights stay packed on the device, or are unpacked now.

    Raises:
      ArtifactError: if the file is not sound.
    """
    weights = to_device(artifact.load(path))
    if packed:
        return Model(jax.jit(by_blocks(forward)), weights)
    return Model(jax.jit(forward), jax.jit(dense)(weights))


def by_blocks(forward: Forward) -> Forward:
    """forward(weights, x) for weights among which are `PackedTensor`s, multiplied by blocks."""

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
    return x.dense() if isinstance(x, PackedTensor) else x


def _equation(eqn: Any, inputs: list[Any], place: str) -> list[Any]:
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
    """y = x W by blocks of W's rows (levels per tensor: y = sum_blocks x[:, rows] W[rows]) or of its columns (levels
    per output channel: y[:, columns] = x W[:, columns]), unpacked one after the other.

    Args:
      x: [m, a].
      w: W [a, ...], its first dimensions contracted and the others flattened to b.
      precision: of the product, as for `jax.lax.dot_general`.
    """
    a = x.shape[1]
    b = math.prod(w.shape) // a
    per_tensor = isinstance(w.granularity, PerTensor)
    rows, columns = (a, b) if per_tensor else (b, a)
    block = min(max(BLOCK // columns // 8 * 8, 8), rows)  # whole bytes, and one loop for all whole blocks
    count, rest = divmod(rows, block)

    def add(y, start, size, codes):
        levels = w.levels[0] if per_tensor else lax.dynamic_slice_in_dim(w.levels, start, size)
        if per_tensor:
            part = lax.dynamic_slice_in_dim(x, start, size, axis=1)
            return y + jnp.dot(part, levels[codes].astype(x.dtype), precision=precision)
        weights = jnp.take_along_axis(levels, codes, axis=1, mode="clip").astype(x.dtype)
        return lax.dynamic_update_slice_in_dim(y, jnp.dot(x, weights.T, precision=precision), start, axis=1)

    def step(i, y):
        return add(y, i * block, block, _codes(w, i, block, columns, rows))

    y = lax.fori_loop(0, count, step, jnp.zeros((len(x), b), x.dtype))
    return add(y, count * block, rest, _codes(w, count, block, columns, rows, rest)) if rest else y


def _codes(w: PackedTensor, i: Any, block: int, columns: int, rows: int, count: int | None = None) -> Array:
    """Codes [count, columns] of the i-th block of `block` rows, of which the last may have fewer."""
    n = columns * (block if count is None else count)
    whole = block * columns  # a multiple of 8 where there is more than one block

    def plane(start, bits):
        place = start + i * (whole * bits // 8)
        return unpack(lax.dynamic_slice_in_dim(w.data, place, packed_size(n, bits)), bits, n)

    if w.bits == 3:
        high = plane(packed_size(rows * columns, 2), 1)
        codes = plane(0, 2) | high << jnp.uint8(2)
    else:
        codes = plane(0, w.bits)
    return codes.reshape(-1, columns).astype(jnp.int32)
