"""Networks as others publish them, as ordinary NNX modules: what their trained weights need, nothing of ours.

PyTorch's padding is the one difference that matters: a 3x3 convolution of stride 2 pads one pixel on every side, where
Flax's 'SAME' pads images of even size below and to the right alone, and so looks at other pixels. Keras pads as Flax
does; its convolutions have biases, though a norm follows, and the norms' epsilon is 1e-3.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Pixel(nnx.Variable):
    """A statistic of the input: part of the model's state, trained by nothing."""


class Pixels(nnx.Module):
    """x scale + shift for each channel: what the network was trained on, from the images that the task gives.

    Our tasks give (pixels / 255 - mean) / std; scale = std and shift = mean give pixels / 255 back. A scale of 1 and a
    shift of 0 leave the images as they are.
    """

    def __init__(self, channels: int):
        self.scale, self.shift = Pixel(jnp.ones(channels, jnp.float32)), Pixel(jnp.zeros(channels, jnp.float32))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x * self.scale[...].astype(x.dtype) + self.shift[...].astype(x.dtype)


class TorchBlock(nnx.Module):
    """Two 3x3 convolutions around a shortcut, a 1x1 convolution and norm where the shape changes (option B of He et
    al., 2016, arXiv 1512.03385)."""

    def __init__(self, width_in: int, width: int, stride: int, rngs: nnx.Rngs):
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        norm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.conv1 = conv(width_in, width, (3, 3), strides=stride, padding=1)
        self.bn1 = norm(width)
        self.conv2, self.bn2 = conv(width, width, (3, 3), padding=1), norm(width)
        self.changes = stride != 1 or width_in != width
        if self.changes:
            self.shortcut, self.shortcut_bn = conv(width_in, width, (1, 1), strides=stride, padding=0), norm(width)

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + (self.shortcut_bn(self.shortcut(x)) if self.changes else x))


class TorchResNet(nnx.Module):
    """Stages of `blocks` blocks of widths w, 2w, 4w, ..., each but the first with stride 2 in its first block.

    (9, 9, 9) at w = 16 is the ResNet-56 of CIFAR-10 (akamaster/pytorch_resnet_cifar10), (2, 2, 2, 2) at w = 64 the
    ResNet-18 with a 3x3 stem (kuangliu/pytorch-cifar).
    """

    def __init__(
        self, channels: int, size: int, classes: int, width: int, rngs: nnx.Rngs, blocks: Sequence[int] = (9, 9, 9)
    ):
        self.pixels = Pixels(channels)
        self.conv1 = nnx.Conv(channels, width, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(width, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.count, width_in = len(blocks), width
        for stage, count in enumerate(blocks):
            own = []
            for i in range(count):
                own.append(TorchBlock(width_in, width << stage, 2 if stage and not i else 1, rngs))
                width_in = width << stage
            setattr(self, f"layer{stage + 1}", nnx.List(own))
        self.linear = nnx.Linear(width_in, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        x = nnx.relu(self.bn1(self.conv1(self.pixels(x))))
        for stage in range(self.count):
            for block in getattr(self, f"layer{stage + 1}"):
                x = block(x)
        return self.linear(jnp.mean(x, axis=(1, 2)))


class KerasBlock(nnx.Module):
    """Convolutions of `sizes` x `sizes` to `widths` channels around a shortcut, the stride in the first of them; where
    the shape changes the shortcut is a 1x1 convolution, with a norm if `normed`."""

    def __init__(
        self, width_in: int, sizes: Sequence[int], widths: Sequence[int], stride: int, normed: bool, rngs: nnx.Rngs
    ):
        convs, inner = [], width_in
        for i, (size, width) in enumerate(zip(sizes, widths, strict=True)):
            convs.append(nnx.Conv(inner, width, (size, size), strides=1 if i else stride, rngs=rngs))
            inner = width
        self.convs = nnx.List(convs)
        self.norms = nnx.List([_keras_norm(width, rngs) for width in widths])
        self.changes = stride != 1 or width_in != inner
        if self.changes:
            self.shortcut = nnx.Conv(width_in, inner, (1, 1), strides=stride, rngs=rngs)
            self.shortcut_norm = _keras_norm(inner, rngs) if normed else None

    def __call__(self, x: Array) -> Array:
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(nnx.relu(y) if i else y))
        if self.changes:
            x = self.shortcut(x)
            x = x if self.shortcut_norm is None else self.shortcut_norm(x)
        return nnx.relu(x + y)


class KerasResNet(nnx.Module):
    """Stages of `blocks` blocks, widths w, 2w, 4w, ..., each but the first with stride 2 in its first block.

    By default MLPerf Tiny's ResNet-8 for CIFAR-10 (Banbury et al., 2021, arXiv 2106.07597) at w = 16. `bottleneck`:
    1x1, 3x3, 1x1 to 4 times the width, norms on the shortcuts, and a stem of 7x7 and 3x3 pooling: keras-applications'
    ResNet50 with (3, 4, 6, 3) at w = 64.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        width: int,
        rngs: nnx.Rngs,
        blocks: Sequence[int] = (1, 1, 1),
        bottleneck: bool = False,
    ):
        self.pixels = Pixels(channels)
        if bottleneck:
            self.stem = nnx.Conv(channels, width, (7, 7), strides=2, padding=3, rngs=rngs)
        else:
            self.stem = nnx.Conv(channels, width, (3, 3), rngs=rngs)
        self.stem_norm = _keras_norm(width, rngs)
        found, inner = [], width
        for stage, count in enumerate(blocks):
            wide = width << stage
            sizes, widths = ((1, 3, 1), (wide, wide, 4 * wide)) if bottleneck else ((3, 3), (wide, wide))
            for i in range(count):
                found.append(KerasBlock(inner, sizes, widths, 2 if stage and not i else 1, bottleneck, rngs))
                inner = widths[-1]
        self.blocks, self.pools = nnx.List(found), bottleneck
        self.head = nnx.Linear(inner, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        x = nnx.relu(self.stem_norm(self.stem(self.pixels(x))))
        if self.pools:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


def _keras_norm(width: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(width, momentum=0.9, epsilon=1e-3, rngs=rngs)


FOREIGN: dict[str, Callable[..., nnx.Module]] = {
    "torch_resnet56": partial(TorchResNet, blocks=(9, 9, 9)),
    "torch_resnet18": partial(TorchResNet, blocks=(2, 2, 2, 2)),
    "keras_resnet8": KerasResNet,
    "keras_resnet50": partial(KerasResNet, blocks=(3, 4, 6, 3), bottleneck=True),
}
