"""DeepLab v3 on a ResNet."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.segmentation.parts import ConvNorm, upsample


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions around a shortcut (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, width_in: int, width: int, stride: int, dilation: int, rngs: nnx.Rngs):
        self.convs = nnx.List([ConvNorm(width_in, width, 3, rngs, stride, dilation),
                               ConvNorm(width, width, 3, rngs, dilation=dilation, relu=False)])  # fmt: skip
        self.changes = stride != 1 or width_in != width
        if self.changes:
            self.shortcut = ConvNorm(width_in, width, 1, rngs, stride, relu=False)

    def __call__(self, x: Array) -> Array:
        y = x
        for conv in self.convs:
            y = conv(y)
        return nnx.relu(y + (self.shortcut(x) if self.changes else x))


class Bottleneck(BasicBlock):
    """1x1, 3x3 and 1x1 convolutions around a shortcut, the last with four times the width (ResNet-50); the stride is
    in the 3x3 one."""

    expansion = 4

    def __init__(self, width_in: int, width: int, stride: int, dilation: int, rngs: nnx.Rngs):
        self.convs = nnx.List([ConvNorm(width_in, width, 1, rngs), ConvNorm(width, width, 3, rngs, stride, dilation),
                               ConvNorm(width, 4 * width, 1, rngs, relu=False)])  # fmt: skip
        self.changes = stride != 1 or width_in != 4 * width
        if self.changes:
            self.shortcut = ConvNorm(width_in, 4 * width, 1, rngs, stride, relu=False)


class Encoder(nnx.Module):
    """ResNet (He et al., 2016, arXiv 1512.03385, table 1) without its head, with output stride 16: the fourth stage
    keeps its size, and its 3x3 convolutions have dilation 2."""

    def __init__(self, block: type[BasicBlock], depths: Sequence[int], width: int, rngs: nnx.Rngs):
        self.stem = ConvNorm(3, width, 7, rngs, stride=2)
        blocks, self.width = [], width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                stride, dilation = 2 if stage in (1, 2) and not i else 1, 2 if stage == 3 else 1
                blocks.append(block(self.width, width << stage, stride, dilation, rngs))
                self.width = (width << stage) * block.expansion
        self.blocks = nnx.List(blocks)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b H W c"]:
        x = nnx.max_pool(self.stem(x), (3, 3), strides=(2, 2), padding="SAME")
        for block in self.blocks:
            x = block(x)
        return x


class ASPP(nnx.Module):
    """Side by side a 1x1 convolution, 3x3 ones with dilations 6, 12 and 18, and the mean over the image, joined by a
    1x1 convolution: atrous spatial pyramid pooling (Chen et al., 2017, arXiv 1706.05587, section 3.3)."""

    def __init__(self, width_in: int, width: int, rngs: nnx.Rngs, dilations: Sequence[int] = (6, 12, 18)):
        self.branches = nnx.List([ConvNorm(width_in, width, 1, rngs),
                                  *(ConvNorm(width_in, width, 3, rngs, dilation=d) for d in dilations)])  # fmt: skip
        self.pooled = ConvNorm(width_in, width, 1, rngs)
        self.join = ConvNorm(width * (len(dilations) + 2), width, 1, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        ys = [branch(x) for branch in self.branches]
        mean = self.pooled(x.mean(axis=(1, 2), keepdims=True))
        return self.join(jnp.concatenate([*ys, jnp.broadcast_to(mean, ys[0].shape)], axis=-1))


class DeepLab(nnx.Module):
    """DeepLab v3: logits of a sixteenth of the image's size from ASPP on a ResNet, enlarged bilinearly.

    width: channels of the ResNet's first stage, 64 in the papers; ASPP has four times as many.
    """

    def __init__(self, classes: int, width: int, rngs: nnx.Rngs, block: type[BasicBlock], depths: Sequence[int]):
        self.encoder = Encoder(block, depths, width, rngs)
        self.aspp = ASPP(self.encoder.width, 4 * width, rngs)
        self.head = nnx.Conv(4 * width, classes, (1, 1), rngs=rngs)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w classes"]:
        return upsample(self.head(self.aspp(self.encoder(images))), 16, images.shape[1:3])
