"""SegFormer (Xie et al., 2021, arXiv 2105.15203)."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.models.parts import Depthwise, upsample


class Attention(nnx.Module):
    """Attention of every place to the places of the map reduced by `reduction` in each direction (equation 1)."""

    def __init__(self, width: int, heads: int, reduction: int, rngs: nnx.Rngs):
        self.heads, self.reduction = heads, reduction
        self.query, self.key, self.value, self.out = (nnx.Linear(width, width, rngs=rngs) for _ in range(4))
        if reduction > 1:
            self.reduce = nnx.Conv(width, width, (reduction, reduction), strides=reduction, rngs=rngs)
            self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        seen = self.norm(self.reduce(x)) if self.reduction > 1 else x
        q, k, v = (
            f(y).reshape(b, -1, self.heads, c // self.heads)
            for f, y in ((self.query, x), (self.key, seen), (self.value, seen))
        )
        return self.out(nnx.dot_product_attention(q, k, v).reshape(b, h, w, c))


class MixFFN(nnx.Module):
    """down(gelu(depthwise 3 x 3(up(x)))): the convolution stands for positions (equation 3)."""

    def __init__(self, width: int, expansion: int, rngs: nnx.Rngs):
        self.up, self.depthwise = nnx.Linear(width, expansion * width, rngs=rngs), Depthwise(expansion * width, rngs)
        self.down = nnx.Linear(expansion * width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.down(nnx.gelu(self.depthwise(self.up(x))))


class Block(nnx.Module):
    """Attention and Mix-FFN, each behind layer norm and around a shortcut."""

    def __init__(self, width: int, heads: int, reduction: int, rngs: nnx.Rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention, self.ffn = Attention(width, heads, reduction, rngs), MixFFN(width, 4, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x = x + self.attention(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Stage(nnx.Module):
    """Overlapping patch embedding, blocks, layer norm."""

    def __init__(
        self, width_in: int, width: int, patch: int, stride: int, depth: int, heads: int, reduction: int, rngs: nnx.Rngs
    ):
        self.embed = nnx.Conv(width_in, width, (patch, patch), strides=stride, rngs=rngs)
        self.embed_norm, self.norm = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.blocks = nnx.List([Block(width, heads, reduction, rngs) for _ in range(depth)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        x = self.embed_norm(self.embed(x))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class SegFormer(nnx.Module):
    """Four stages at 1/4, 1/8, 1/16 and 1/32 of the image's size and the all-MLP decoder; B0 at width 32.

    width: channels w of the first stage; the others have 2w, 5w and 8w, with heads of w channels. The decoder has 8w.
    depths: blocks of each stage. No dropout and no stochastic depth.
    """

    def __init__(self, classes: int, width: int, rngs: nnx.Rngs, depths: Sequence[int] = (2, 2, 2, 2)):
        heads, reductions = (1, 2, 5, 8), (8, 4, 2, 1)
        widths = [width * n for n in heads]
        self.stages = nnx.List(
            [
                Stage(a, b, 3 if i else 7, 2 if i else 4, depths[i], heads[i], reductions[i], rngs)
                for i, (a, b) in enumerate(zip([3, *widths[:-1]], widths, strict=True))
            ]
        )
        decoder = 8 * width
        self.laterals = nnx.List([nnx.Linear(w, decoder, rngs=rngs) for w in widths])
        self.fuse = nnx.Linear(4 * decoder, decoder, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(decoder, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(decoder, classes, rngs=rngs)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w classes"]:
        x, maps = images, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        size = maps[0].shape[1:3]
        ys = [upsample(f(y), 2**i, size) for i, (f, y) in enumerate(zip(self.laterals, maps, strict=True))]
        fused = nnx.relu(self.norm(self.fuse(jnp.concatenate(ys, axis=-1))))
        return upsample(self.head(fused), 4, images.shape[1:3])
