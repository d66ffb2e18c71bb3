"""Networks for ImageNet, as published: ordinary Flax, torchvision's padding, nothing in them knows of quantization."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.models.published_resnets import FOREIGN
from experiments.models.small import TransformerBlock

CLASSES = {"imagenet2012": 1000}
# Of ImageNet's train pixels scaled to [0, 1], as published networks use them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HE = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(
    channels: int, width: int, size: int, rngs: nnx.Rngs, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nnx.Conv:
    """size x size, dilation * (size // 2) pixels of padding on every side ('SAME' would pad one side alone at stride
    2)."""
    return nnx.Conv(
        channels,
        width,
        (size, size),
        strides=stride,
        padding=dilation * (size // 2),
        use_bias=False,
        feature_group_count=groups,
        kernel_dilation=dilation,
        kernel_init=_HE,
        rngs=rngs,
    )


def _norm(width: int, rngs: nnx.Rngs, **options: Any) -> nnx.BatchNorm:
    return nnx.BatchNorm(width, momentum=0.9, epsilon=1e-5, rngs=rngs, **options)


class Residual(nnx.Module):
    """Convolutions around a shortcut: 3x3, 3x3, or as a bottleneck 1x1, 3x3, 1x1 to 4 times the width.

    The stride is in the first 3x3 (torchvision's v1.5). The last norm's scale starts at 0 where `zero`, so that a
    block starts as its shortcut (Goyal et al., 2017, arXiv 1706.02677). dilation: of the 3x3 ones.
    """

    def __init__(
        self, channels: int, width: int, stride: int, bottleneck: bool, zero: bool, rngs: nnx.Rngs, dilation: int = 1
    ):
        out = 4 * width if bottleneck else width
        layers = [(1, width, 1), (3, width, stride), (1, out, 1)] if bottleneck else [(3, width, stride), (3, out, 1)]
        convs, norms, inner = [], [], channels
        for i, (size, wide, step) in enumerate(layers):
            start = {"scale_init": nnx.initializers.zeros} if zero and i == len(layers) - 1 else {}
            convs.append(_conv(inner, wide, size, rngs, step, dilation=dilation if size == 3 else 1))
            norms.append(_norm(wide, rngs, **start))
            inner = wide
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)
        self.changes = stride != 1 or channels != out
        if self.changes:
            self.shortcut, self.shortcut_norm = _conv(channels, out, 1, rngs, stride), _norm(out, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(nnx.relu(y) if i else y))
        return nnx.relu(y + (self.shortcut_norm(self.shortcut(x)) if self.changes else x))


class Encoder(nnx.Module):
    """ResNet (He et al., 2015, arXiv 1512.03385) without its head: 7x7 stem, 3x3 pooling, four stages of `blocks`;
    `width` is 64 as published.

    dilated: the fourth stage keeps its size and its 3x3 convolutions have dilation 2, so that the output has a
    sixteenth of the image's height (Chen et al., 2017, arXiv 1706.05587), not a 32nd.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        rngs: nnx.Rngs,
        *,
        blocks: tuple[int, ...] = (2, 2, 2, 2),
        bottleneck: bool = False,
        zero: bool = True,
        dilated: bool = False,
    ):
        self.stem, self.stem_norm = _conv(channels, width, 7, rngs, 2), _norm(width, rngs)
        stages, self.width = [], width
        for stage, count in enumerate(blocks):
            wide, last = width * 2**stage, dilated and stage == 3
            for i in range(count):
                stride = 2 if stage and i == 0 and not last else 1
                stages.append(Residual(self.width, wide, stride, bottleneck, zero, rngs, 2 if last else 1))
                self.width = wide * (4 if bottleneck else 1)
        self.blocks = nnx.List(stages)

    def features(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        """The last stage's maps."""
        x = nnx.relu(self.stem_norm(self.stem(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return x


class ResNet(Encoder):
    """An encoder, mean pooling and a dense head. Any image size will do."""

    def __init__(self, channels: int, size: int, classes: int, width: int, rngs: nnx.Rngs, **options: Any):
        super().__init__(channels, width, rngs, **options)
        self.head = nnx.Linear(self.width, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        return self.head(self.features(x).mean(axis=(1, 2)))


class InvertedResidual(nnx.Module):
    """1x1 to `expansion` times the channels, depthwise 3x3, 1x1 back without activation; a shortcut where the shape
    stays."""

    def __init__(self, channels: int, width: int, stride: int, expansion: int, rngs: nnx.Rngs):
        inner = channels * expansion
        convs = [] if expansion == 1 else [_conv(channels, inner, 1, rngs)]
        convs += [_conv(inner, inner, 3, rngs, stride, groups=inner), _conv(inner, width, 1, rngs)]
        self.convs = nnx.List(convs)
        self.norms = nnx.List([_norm(conv.out_features, rngs) for conv in convs])
        self.shortcut = stride == 1 and channels == width

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(nnx.relu6(y) if i else y))
        return x + y if self.shortcut else y


# (expansion, channels, blocks, stride) of the stages: table 2 of arXiv 1801.04381.
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nnx.Module):
    """MobileNetV2 (Sandler et al., 2018, arXiv 1801.04381), without its dropout before the head; `width` is 32 as
    published, and the other channels are in proportion, to multiples of 8."""

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        width: int,
        rngs: nnx.Rngs,
        *,
        stages: tuple[tuple[int, int, int, int], ...] = MOBILENET_V2,
        last: int = 1280,
    ):
        inner = _eights(width)
        self.stem, self.stem_norm = _conv(channels, inner, 3, rngs, 2), _norm(inner, rngs)
        blocks = []
        for expansion, stage_width, count, stride in stages:
            wide = _eights(stage_width * width / 32)
            for i in range(count):
                blocks.append(InvertedResidual(inner, wide, stride if i == 0 else 1, expansion, rngs))
                inner = wide
        self.blocks = nnx.List(blocks)
        self.last, self.last_norm = _conv(inner, last, 1, rngs), _norm(last, rngs)
        self.head = nnx.Linear(last, classes, kernel_init=nnx.initializers.normal(0.01), rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        x = nnx.relu6(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(nnx.relu6(self.last_norm(self.last(x))).mean(axis=(1, 2)))


def _eights(channels: float) -> int:
    """The nearest multiple of 8 that is at least 8 and takes away at most a tenth."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


class DeiT(nnx.Module):
    """DeiT without distillation (Touvron et al., 2020, arXiv 2012.12877), which is ViT with a class token: patches of
    16 x 16, learned positions; `width` 384 is DeiT-S, one head for each 64 channels (for fewer channels, one). Its
    stochastic depth is left out."""

    def __init__(
        self, channels: int, size: int, classes: int, width: int, rngs: nnx.Rngs, *, depth: int = 12, patch: int = 16
    ):
        if size % patch:
            raise ValueError(f"images of {size} x {size}: they are cut into patches of {patch} x {patch}")
        if width > 64 and width % 64:
            raise ValueError(f"width is {width}: above 64 it must be a multiple of 64, the width of a head")
        normal = nnx.initializers.truncated_normal(0.02)
        tokens = (size // patch) ** 2 + 1
        self.first = nnx.Conv(channels, width, (patch, patch), strides=patch, padding="VALID", rngs=rngs)
        self.token = nnx.Param(normal(rngs.params(), (1, 1, width), jnp.float32))
        self.positions = nnx.Param(normal(rngs.params(), (1, tokens, width), jnp.float32))
        self.blocks = nnx.List([TransformerBlock(width, max(1, width // 64), rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, classes, kernel_init=normal, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b classes"]:
        x = self.first(x)
        b, _, _, width = x.shape
        token = jnp.broadcast_to(self.token[...].astype(x.dtype), (b, 1, width))
        x = jnp.concatenate([token, x.reshape(b, -1, width)], axis=1) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


MODELS: dict[str, Callable[..., nnx.Module]] = {
    "resnet18": ResNet,
    "resnet50": partial(ResNet, blocks=(3, 4, 6, 3), bottleneck=True),
    "mobilenetv2": MobileNetV2,
    "deit_s": DeiT,
}


def build(name: str, channels: int, size: int, classes: int, width: int, seed: int) -> nnx.Module:
    """The model `name` with weights drawn from `seed`, for images [size, size, channels]."""
    known = MODELS | FOREIGN
    if name not in known:
        raise ValueError(f"model {name!r} is not one of {sorted(known)}")
    return known[name](channels, size, classes, width, rngs=nnx.Rngs(jax.random.key(seed)))
