"""DeepLab v3 on a ResNet."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.models.imagenet import Encoder
from experiments.models.parts import ConvNorm, upsample


class ASPP(nnx.Module):
    """Side by side a 1x1 convolution, 3x3 ones with dilations 6, 12 and 18, and the mean over the image, joined by a
    1x1 convolution: atrous spatial pyramid pooling (Chen et al., 2017, arXiv 1706.05587, section 3.3)."""

    def __init__(self, width_in: int, width: int, rngs: nnx.Rngs, dilations: Sequence[int] = (6, 12, 18)):
        self.branches = nnx.List(
            [ConvNorm(width_in, width, 1, rngs), *(ConvNorm(width_in, width, 3, rngs, dilation=d) for d in dilations)]
        )
        self.pooled = ConvNorm(width_in, width, 1, rngs)
        self.join = ConvNorm(width * (len(dilations) + 2), width, 1, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        ys = [branch(x) for branch in self.branches]
        mean = self.pooled(x.mean(axis=(1, 2), keepdims=True))
        return self.join(jnp.concatenate([*ys, jnp.broadcast_to(mean, ys[0].shape)], axis=-1))


class DeepLab(nnx.Module):
    """DeepLab v3: logits of a sixteenth of the image's size from ASPP on a ResNet, enlarged bilinearly.

    width: channels of the ResNet's first stage, 64 in the papers; ASPP has four times as many; options: the encoder's.
    """

    def __init__(self, classes: int, width: int, rngs: nnx.Rngs, **options: Any):
        self.encoder = Encoder(3, width, rngs, dilated=True, **options)
        self.aspp = ASPP(self.encoder.width, 4 * width, rngs)
        self.head = nnx.Conv(4 * width, classes, (1, 1), rngs=rngs)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w classes"]:
        return upsample(self.head(self.aspp(self.encoder.features(images))), 16, images.shape[1:3])
