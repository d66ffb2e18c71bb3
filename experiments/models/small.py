"""Float NNX models: ordinary Flax, nothing in them knows of quantization."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.models.published_resnets import FOREIGN
from mecq_jax.training import Split


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


class NormMLP(nnx.Module):
    """Dense layers without bias, batch norm and ReLU behind each: `depth` hidden ones of `width` after the first."""

    def __init__(self, channels: int, size: int, classes: int, width: int, rngs: nnx.Rngs, depth: int = 2):
        dense = partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.first = dense(size * size * channels, width)
        self.hidden = nnx.List([dense(width, width) for _ in range(depth)])
        self.norms = nnx.List([nnx.BatchNorm(width, momentum=0.9, rngs=rngs) for _ in range(depth + 1)])
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        x = x.reshape(x.shape[0], -1)
        for layer, norm in zip([self.first, *self.hidden], self.norms, strict=True):
            x = nnx.relu(norm(layer(x)))
        return self.head(x)


class MixerBlock(nnx.Module):
    """A dense layer over tokens, then two over channels, each behind batch norm, around shortcuts."""

    def __init__(self, tokens: int, width: int, rngs: nnx.Rngs):
        dense = partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.tokens, self.up, self.down = dense(tokens, tokens), dense(width, 2 * width), dense(2 * width, width)
        self.norms = nnx.List([nnx.BatchNorm(w, momentum=0.9, rngs=rngs) for w in (width, width, 2 * width)])

    def __call__(self, x: Float[Array, "b t w"]) -> Float[Array, "b t w"]:
        y = self.tokens(self.norms[0](x).swapaxes(1, 2)).swapaxes(1, 2)
        x = x + nnx.relu(y)
        y = self.up(self.norms[1](x))
        return x + self.down(nnx.relu(self.norms[2](y)))


class Mixer(nnx.Module):
    """All-matmul network on patches of 4 x 4 pixels, after MLP-Mixer (Tolstikhin et al., 2021, arXiv 2105.01601)."""

    def __init__(self, channels: int, size: int, classes: int, width: int, rngs: nnx.Rngs, depth: int = 2):
        if size % 4:
            raise ValueError(f"images of {size} x {size}: the mixer cuts them into patches of 4 x 4")
        tokens = (size // 4) ** 2
        self.first = nnx.Linear(16 * channels, width, use_bias=False, rngs=rngs)
        self.blocks = nnx.List([MixerBlock(tokens, width, rngs) for _ in range(depth)])
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        b, h, w, c = x.shape
        patches = x.reshape(b, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, 16 * c)
        x = self.first(patches)
        for block in self.blocks:
            x = block(x)
        return self.head(nnx.relu(self.norm(x)).mean(axis=1))


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


class VGGSmall(nnx.Module):
    """Three pairs of 3x3 convolutions with batch norm and ReLU, of widths w, 2w, 4w, each pair before a max pooling by
    2, then a dense head: VGG-Small at w = 128, as low-bit papers compare it (LQ-Nets, arXiv 1807.10029)."""

    def __init__(self, channels: int, size: int, classes: int, width: int, rngs: nnx.Rngs):
        if size % 8:
            raise ValueError(f"images of {size} x {size}: VGG-Small halves them three times; 8, 16, 24, 32, ... fit")
        widths = [width << i // 2 for i in range(6)]
        ins = [channels, *widths[:-1]]
        self.convs = nnx.List(
            [nnx.Conv(a, b, (3, 3), use_bias=False, rngs=rngs) for a, b in zip(ins, widths, strict=True)]
        )
        self.norms = nnx.List([nnx.BatchNorm(w, momentum=0.9, rngs=rngs) for w in widths])
        self.head = nnx.Linear(widths[-1] * (size // 8) ** 2, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = nnx.relu(norm(conv(x)))
            if i % 2:
                x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        return self.head(x.reshape(x.shape[0], -1))


class SeparableCNN(nnx.Module):
    """Depthwise 3x3 convolutions, each before a 1x1 one: three pairs, the last two with stride 2 (MobileNet, Howard et
    al., 2017, arXiv 1704.04861)."""

    def __init__(self, channels: int, size: int, classes: int, width: int, rngs: nnx.Rngs):
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        widths = [width, 2 * width, 4 * width, 4 * width]
        self.stem = conv(channels, width, (3, 3))
        self.depthwise = nnx.List(
            [conv(w, w, (3, 3), strides=1 + (i > 0), feature_group_count=w) for i, w in enumerate(widths[:-1])]
        )
        self.pointwise = nnx.List([conv(a, b, (1, 1)) for a, b in pairwise(widths)])
        norm = partial(nnx.BatchNorm, momentum=0.9, rngs=rngs)
        self.stem_norm = norm(width)
        self.norms = nnx.List([nnx.List([norm(a), norm(b)]) for a, b in pairwise(widths)])
        self.head = nnx.Linear(widths[-1], classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        x = nnx.relu(self.stem_norm(self.stem(x)))
        for depthwise, pointwise, (before, after) in zip(self.depthwise, self.pointwise, self.norms, strict=True):
            x = nnx.relu(after(pointwise(nnx.relu(before(depthwise(x))))))
        return self.head(x.mean(axis=(1, 2)))


class TransformerBlock(nnx.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "b t w"]) -> Float[Array, "b t w"]:
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class ViT(nnx.Module):
    """Transformer on patches with learned positions and mean pooling, after Dosovitskiy et al. (arXiv 2010.11929);
    12 blocks, 3 heads and width 192 are ViT-Tiny. An image is cut into 4 x 4 patches."""

    def __init__(
        self, channels: int, size: int, classes: int, width: int, rngs: nnx.Rngs, depth: int = 12, heads: int = 3
    ):
        if size % 4 or width % heads:
            raise ValueError(f"images of {size} x {size} are cut into 4 x 4 patches, width {width} into {heads} heads")
        self.patch = size // 4
        self.first = nnx.Linear(self.patch**2 * channels, width, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (16, width)))
        self.blocks = nnx.List([TransformerBlock(width, heads, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        b, p, c = x.shape[0], self.patch, x.shape[3]
        patches = x.reshape(b, 4, p, 4, p, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, 16, p * p * c)
        x = self.first(patches) + self.positions[...][None]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(axis=1))


# The transformer's kernels split over devices: attention by heads, the dense layers by their hidden width.
TENSOR_PARALLEL = [
    Split("blocks/.*/(query|key|value)/kernel", (None, "model")),
    Split("blocks/.*/out/kernel", ("model",)),
    Split("blocks/.*/up/kernel", (None, "model")),
    Split("blocks/.*/down/kernel", ("model",)),
]

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "mlp": MLP,
    "norm_mlp": partial(NormMLP, depth=3),
    "mixer": Mixer,
    "cnn": SmallCNN,
    "separable": SeparableCNN,
    "vgg_small": VGGSmall,
    "vit_tiny": ViT,
    "resnet8": partial(ResNet, depth=8),
    "resnet20": partial(ResNet, depth=20),
}


def build(name: str, channels: int, size: int, classes: int, width: int, seed: int) -> nnx.Module:
    """The model `name` with weights drawn from `seed`, for images [size, size, channels]."""
    known = MODELS | FOREIGN
    if name not in known:
        raise ValueError(f"model {name!r} is not one of {sorted(known)}")
    return known[name](channels, size, classes, width, rngs=nnx.Rngs(jax.random.key(seed)))
