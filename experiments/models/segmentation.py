"""Networks with logits for every pixel, by name: [b, h, w, 3] -> [b, h, w, classes]."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

import mecq_reader
from experiments.config import Config
from experiments.data.names import by_path
from experiments.models.deeplab import DeepLab
from experiments.models.segformer import SegFormer
from experiments.models.unet import PatchUNet

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "patch_unet": PatchUNet,
    "resnet18_deeplab": DeepLab,
    "resnet50_deeplab": partial(DeepLab, blocks=(3, 4, 6, 3), bottleneck=True),
    "segformer_b0": SegFormer,
}


def build(name: str, classes: int, width: int, seed: int) -> nnx.Module:
    """The model `name` with weights drawn from `seed`; `width` channels in its first stage (B0: 32, ResNet: 64)."""
    if name not in MODELS:
        raise ValueError(f"model = {name!r}: segmentation has {', '.join(MODELS)}")
    return MODELS[name](classes, width, rngs=nnx.Rngs(jax.random.key(seed)))


def made(config: Config, classes: int) -> nnx.Module:
    """The model of a config, its encoder with the float weights and statistics of `encoder_run` where it has one.

    Raises:
      FileNotFoundError: if that run has no float weights.
      ValueError: if the model has no encoder, or another one.
    """
    model = build(config.model, classes, config.width, config.seed)
    if config.encoder_run is None:
        return model
    path = Path(config.encoder_run) / "float.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"encoder_run = {config.encoder_run!r} holds no float.safetensors; finish it first")
    if not hasattr(model, "encoder"):
        raise ValueError(f"model = {config.model!r} has no encoder that another run could give; leave encoder_run out")
    there = by_path(mecq_reader.read_dense(path))
    found = []
    for where, leaf in nnx.to_flat_state(nnx.state(model.encoder, (nnx.Param, nnx.BatchStat))):
        name = "/".join(map(str, where))
        if name not in there or there[name].shape != leaf.shape:
            have = there[name].shape if name in there else "nothing"
            raise ValueError(f"{path} holds {have} for {name}, the encoder needs {leaf.shape}; is it the same network?")
        found.append((where, leaf.replace(jnp.asarray(there[name]))))
    nnx.update(model.encoder, nnx.from_flat_state(found))
    return model
