"""Float NNX models: ordinary Flax, nothing in them knows of quantization."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class MLP(nnx.Module):
    """Dense layers with ReLU: two hidden layers of `width` between a first and a last layer of their own."""

    def __init__(self, channels: int, size: int, classes: int, width: int, rngs: nnx.Rngs):
        self.first = nnx.Linear(size * size * channels, width, rngs=rngs)
        self.hidden = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        x = nnx.relu(self.first(x.reshape(x.shape[0], -1)))
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.head(x)


class SmallCNN(nnx.Module):
    """Four 3x3 convolutions with batch norm, the second and fourth with stride 2, mean pooling and a dense head."""

    def __init__(self, channels: int, size: int, classes: int, width: int, rngs: nnx.Rngs):
        widths = (channels, width, 2 * width, 2 * width, 4 * width)
        conv = partial(nnx.Conv, kernel_size=(3, 3), use_bias=False, rngs=rngs)
        self.convs = nnx.List([conv(widths[i], widths[i + 1], strides=1 + i % 2) for i in range(4)])
        self.norms = nnx.List([nnx.BatchNorm(w, momentum=0.9, rngs=rngs) for w in widths[1:]])
        self.head = nnx.Linear(4 * width, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(conv(x)))
        return self.head(x.mean(axis=(1, 2)))


class Block(nnx.Module):
    """Two 3x3 convolutions around a shortcut; a 1x1 convolution where the shape changes."""

    def __init__(self, width_in: int, width: int, stride: int, rngs: nnx.Rngs):
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        norm = partial(nnx.BatchNorm, momentum=0.9, rngs=rngs)
        self.conv1, self.norm1 = conv(width_in, width, (3, 3), strides=stride), norm(width)
        self.conv2, self.norm2 = conv(width, width, (3, 3)), norm(width)
        self.changes = stride != 1 or width_in != width
        if self.changes:
            self.shortcut, self.shortcut_norm = conv(width_in, width, (1, 1), strides=stride), norm(width)

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return nnx.relu(y + (self.shortcut_norm(self.shortcut(x)) if self.changes else x))


class ResNet(nnx.Module):
    """CIFAR ResNet of depth 6 n + 2 with widths w, 2w, 4w (He et al., 2016, arXiv 1512.03385, section 4.2)."""

    def __init__(self, channels: int, size: int, classes: int, width: int, rngs: nnx.Rngs, depth: int = 20):
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth = {depth}: a CIFAR ResNet has depth 6 n + 2: 8, 14, 20, 32, ...")
        self.stem = nnx.Conv(channels, width, (3, 3), use_bias=False, rngs=rngs)
        self.stem_norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        blocks, width_in = [], width
        for stage in range(3):
            for i in range(depth // 6):
                blocks.append(Block(width_in, width << stage, 2 if stage and not i else 1, rngs))
                width_in = width << stage
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(width_in, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        x = nnx.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


MODELS: dict[str, Callable[..., nnx.Module]] = {
    "mlp": MLP,
    "cnn": SmallCNN,
    "resnet8": partial(ResNet, depth=8),
    "resnet20": partial(ResNet, depth=20),
}


def build(name: str, channels: int, size: int, classes: int, width: int, seed: int) -> nnx.Module:
    """The model `name` with weights drawn from `seed`, for images [size, size, channels]."""
    if name not in MODELS:
        raise ValueError(f"model {name!r} is not one of {sorted(MODELS)}")
    return MODELS[name](channels, size, classes, width, rngs=nnx.Rngs(jax.random.key(seed)))
