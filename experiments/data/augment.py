"""Augmentation inside the jitted train step: pure functions of a key and a batch of images."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num, UInt8

KINDS = ("none", "crop", "crop_flip")
_PAD_MODES = {"zero": "constant", "reflect": "reflect"}


def normalise(images: UInt8[Array, "b h w c"], mean: Sequence[float], std: Sequence[float]) -> Float[Array, "b h w c"]:
    """float32 (images / 255 - mean) / std.

    images: uint8 [b, h, w, c].
    mean, std: c floats each, of pixels scaled to [0, 1] (`Dataset.mean`, `Dataset.std`).
    """
    channels = images.shape[-1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"mean has {len(mean)} and std {len(std)} values, both must have one per channel ({channels}); "
            "pass the mean and std of the same data set as the images"
        )
    shift = jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, channels)
    scale = jnp.asarray(std, jnp.float32).reshape(1, 1, 1, channels)
    return (images.astype(jnp.float32) / 255.0 - shift) / scale


def crop_flip(
    rng: Key[Array, ""], images: Num[Array, "b h w c"], pad: int = 4, flip: bool = True, mode: str = "zero"
) -> Num[Array, "b h w c"]:
    """A random h x w crop of each padded image, mirrored left to right with probability 1/2.

    rng: one key.
    images: any dtype [b, h, w, c]; the result has the same dtype and shape.
    pad: pixels added to each side; 0 leaves the images where they are.
    flip: False for no mirroring.
    mode: "zero" or "reflect", what the pixels added are.
    """
    _check_padding(images.shape, pad, mode)
    crop_key, flip_key = jax.random.split(rng)
    if pad:
        images = _random_crop(crop_key, images, pad, _PAD_MODES[mode])
    if not flip:
        return images
    mirrored = jax.random.bernoulli(flip_key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1, :], images)


def apply(rng: Key[Array, ""], images: Num[Array, "b h w c"], kind: str, pad: int = 4) -> Num[Array, "b h w c"]:
    """The augmentation named `kind`.

    rng: one key.
    images: any dtype [b, h, w, c].
    kind: "none", "crop" (zero padding, no mirroring) or "crop_flip".
    pad: pixels of padding of a crop.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown augmentation {kind!r}; use one of {', '.join(KINDS)}")
    if kind == "none":
        return images
    return crop_flip(rng, images, pad, flip=kind == "crop_flip")


def _random_crop(rng: Key[Array, ""], images: Num[Array, "b h w c"], pad: int, mode: str) -> Num[Array, "b h w c"]:
    """Each image at its own random offset, 0 to 2 * pad in each direction, of its padded self."""
    count, *shape = images.shape
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
    offsets = jax.random.randint(rng, (count, 2), 0, 2 * pad + 1, jnp.int32)
    starts = jnp.pad(offsets, ((0, 0), (0, 1)))  # channels start at 0
    return jax.vmap(partial(_slice, shape=tuple(shape)))(padded, starts)


def _slice(image: Num[Array, "p q c"], start: Array, shape: tuple[int, ...]) -> Num[Array, "h w c"]:
    """The block of `shape` at `start` (int32 [3]) of one image."""
    return jax.lax.dynamic_slice(image, (start[0], start[1], start[2]), shape)


def _check_padding(shape: tuple[int, ...], pad: int, mode: str) -> None:
    if mode not in _PAD_MODES:
        raise ValueError(f"unknown padding mode {mode!r}; use one of {', '.join(_PAD_MODES)}")
    if pad < 0:
        raise ValueError(f"pad is {pad}, must be at least 0; use 0 for no crop")
    if mode == "reflect" and pad >= min(shape[1:3]):
        raise ValueError(f"pad is {pad}, must be below the size {min(shape[1:3])} for reflect; use less or mode='zero'")
