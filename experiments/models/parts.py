"""What networks with an output for every pixel are made of; feature maps are [b, h, w, c] throughout."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def upsample(x: Float[Array, "b h w c"], factor: int, size: Sequence[int]) -> Float[Array, "b H W c"]:
    """x made `factor` times as high and wide by bilinear interpolation, cut to `size` at the lower and right edge.

    A map of 12 x 15 cells of 16 pixels covers 192 x 240 pixels, of an image of 180 x 240 padded to that.
    """
    b, h, w, c = x.shape
    if h * factor < size[0] or w * factor < size[1]:
        raise ValueError(f"a map of {h} x {w} enlarged {factor} times does not cover {size[0]} x {size[1]}")
    return jax.image.resize(x, (b, h * factor, w * factor, c), "linear")[:, : size[0], : size[1]]


def patches(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b H W d"]:
    """The size x size pixels of each patch one after another, [b, ceil(h / size), ceil(w / size), size^2 c]; what an
    image lacks at its lower and right edge is 0."""
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), (0, -x.shape[2] % size), (0, 0)))
    b, h, w, c = x.shape
    cut = x.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(b, h // size, w // size, size * size * c)


class Depthwise(nnx.Module):
    """y[i, j, c] = sum_uv taps[u, v, c] x[i + u - 1, j + v - 1, c]: a 3 x 3 convolution of each channel by itself.

    Nine shifted products and no convolution, whose gradient XLA computes slowly on a CPU. The default rules quantize
    what is called 'kernel'; these nine numbers a channel, one in a hundred of a network's weights, stay float.
    """

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.taps = nnx.Param(jax.random.normal(rngs.params(), (3, 3, width)) / 3.0)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        h, w = x.shape[1:3]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        taps = self.taps[...].astype(x.dtype)
        products = [padded[:, u : u + h, v : v + w] * taps[u, v] for u in range(3) for v in range(3)]
        return sum(products[1:], start=products[0])


class ConvNorm(nnx.Module):
    """Convolution without bias, batch norm, and ReLU unless `relu` is False."""

    def __init__(
        self,
        width_in: int,
        width: int,
        size: int,
        rngs: nnx.Rngs,
        stride: int = 1,
        dilation: int = 1,
        relu: bool = True,
    ):
        self.conv = nnx.Conv(
            width_in, width, (size, size), strides=stride, kernel_dilation=dilation, use_bias=False, rngs=rngs
        )
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.relu = relu

    def __call__(self, x: Array) -> Array:
        x = self.norm(self.conv(x))
        return nnx.relu(x) if self.relu else x
