"""Networks with logits for every pixel, by name: [b, h, w, 3] -> [b, h, w, classes]."""

from collections.abc import Callable
from functools import partial

import jax
from flax import nnx

from experiments.segmentation.resnet import BasicBlock, Bottleneck, DeepLab
from experiments.segmentation.segformer import SegFormer
from experiments.segmentation.unet import PatchUNet

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "patch_unet": PatchUNet,
    "resnet18_deeplab": partial(DeepLab, block=BasicBlock, depths=(2, 2, 2, 2)),
    "resnet50_deeplab": partial(DeepLab, block=Bottleneck, depths=(3, 4, 6, 3)),
    "segformer_b0": SegFormer,
}


def build(name: str, classes: int, width: int, seed: int) -> nnx.Module:
    """The model `name` with weights drawn from `seed`; `width` channels in its first stage (B0: 32, ResNet: 64)."""
    if name not in MODELS:
        raise ValueError(f"model = {name!r}: segmentation has {', '.join(MODELS)}")
    return MODELS[name](classes, width, rngs=nnx.Rngs(jax.random.key(seed)))
