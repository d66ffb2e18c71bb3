"""A U-shaped network of dense layers and depthwise convolutions, which trains from scratch on a CPU."""

from collections.abc import Sequence
from itertools import pairwise

from flax import nnx
from jaxtyping import Array, Float

from experiments.models.parts import Depthwise, patches, upsample


class Block(nnx.Module):
    """x + down(relu(up(norm(depthwise(x))))): neighbours by a depthwise 3 x 3 convolution, channels by two dense
    layers, after ConvNeXt (Liu et al., 2022, arXiv 2201.03545) with batch norm and ReLU."""

    def __init__(self, width: int, expansion: int, rngs: nnx.Rngs):
        self.depthwise = Depthwise(width, rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.up = nnx.Linear(width, expansion * width, rngs=rngs)
        self.down = nnx.Linear(expansion * width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x + self.down(nnx.relu(self.up(self.norm(self.depthwise(x)))))


class Merge(nnx.Module):
    """Patches of s x s pixels, each a vector, through a dense layer and batch norm: half the size where s = 2."""

    def __init__(self, width_in: int, width: int, size: int, rngs: nnx.Rngs):
        self.size = size
        self.dense = nnx.Linear(size * size * width_in, width, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        return self.norm(self.dense(patches(x, self.size)))


class PatchUNet(nnx.Module):
    """Down by patches of 4, 2, 2 and 2, and up again by bilinear interpolation onto the maps of the way down.

    width: channels w of the finest map, a quarter of the image's height; the coarser ones have 2w, 4w and 6w.
    depths: blocks on each map on the way down; on the way up there is one on each.
    The U is U-Net's (Ronneberger et al., 2015, arXiv 1505.04597), with sums in place of concatenation.
    """

    def __init__(
        self, classes: int, width: int, rngs: nnx.Rngs, depths: Sequence[int] = (1, 2, 4, 2), expansion: int = 3
    ):
        widths = [width, 2 * width, 4 * width, 6 * width]
        self.merges = nnx.List(
            [Merge(a, b, 2 if i else 4, rngs) for i, (a, b) in enumerate(zip([3, *widths[:-1]], widths, strict=True))]
        )
        self.stages = nnx.List(
            [
                nnx.List([Block(w, expansion, rngs) for _ in range(depth)])
                for w, depth in zip(widths, depths, strict=True)
            ]
        )
        self.laterals = nnx.List([nnx.Linear(b, a, rngs=rngs) for a, b in pairwise(widths)])
        self.blocks_up = nnx.List([Block(w, expansion, rngs) for w in widths[:-1]])
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w classes"]:
        x, maps = images, []
        for merge, blocks in zip(self.merges, self.stages, strict=True):
            x = merge(x)
            for block in blocks:
                x = block(x)
            maps.append(x)
        for i in reversed(range(len(maps) - 1)):
            x = maps[i] + upsample(self.laterals[i](x), 2, maps[i].shape[1:3])
            x = self.blocks_up[i](x)
        return upsample(self.head(nnx.relu(self.norm(x))), 4, images.shape[1:3])
