"""Augmentation of images together with their masks, inside the jitted train step: pure functions of a key."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

KINDS = ("none", "scale_crop_flip")
SCALES = (0.5, 2.0)


def apply(
    rng: Key[Array, ""],
    images: Float[Array, "b h w c"],
    labels: Int[Array, "b h w"],
    kind: str,
    ignore: int,
    size: tuple[int, int] | None = None,
) -> tuple[Float[Array, "b H W c"], Int[Array, "b H W"]]:
    """The augmentation named `kind`.

    images: normalised, so that 0 is the mean; labels: their masks.
    kind: 'none', or 'scale_crop_flip', see there.
    ignore: the label of pixels that come from outside of an image.
    size: (height, width) of the crop; None: that of the images.
    """
    check(kind)
    return (images, labels) if kind == "none" else scale_crop_flip(rng, images, labels, ignore, size)


def check(kind: str) -> None:
    """Raises ValueError if there is no such augmentation."""
    if kind not in KINDS:
        raise ValueError(f"augment = {kind!r}: segmentation has {', '.join(KINDS)}")


def scale_crop_flip(
    rng: Key[Array, ""],
    images: Float[Array, "b h w c"],
    labels: Int[Array, "b h w"],
    ignore: int,
    size: tuple[int, int] | None = None,
    scales: tuple[float, float] = SCALES,
) -> tuple[Float[Array, "b H W c"], Int[Array, "b H W"]]:
    """Each image made s times as large, a crop of `size` of it, mirrored left to right with probability 1/2.

    Pixel i of the crop shows the place (i + 1/2 - t) / s of the image, in pixels from its edge: bilinear in the
    image (over the area where s < 1), the nearest pixel of the mask; outside of it are 0 and `ignore`.
    s: log-uniform in `scales`, the same in both directions; t: uniform where the crop lies within the scaled image
    (or, where that is smaller, the scaled image within the crop).
    """
    size = size or (images.shape[1], images.shape[2])
    b = images.shape[0]
    scale_key, place_key, flip_key = jax.random.split(rng, 3)
    low, high = jnp.log(scales[0]), jnp.log(scales[1])
    scale = jnp.exp(jax.random.uniform(scale_key, (b, 1), jnp.float32, low, high))
    room = jnp.asarray(size, jnp.float32) - scale * jnp.asarray(images.shape[1:3], jnp.float32)
    shift = jax.random.uniform(place_key, (b, 2), jnp.float32) * room
    images = jax.vmap(partial(_resample, size=size))(images, scale[:, 0], shift)
    labels = jax.vmap(partial(_nearest, size=size, ignore=ignore))(labels, scale[:, 0], shift)
    flip = jax.random.bernoulli(flip_key, 0.5, (b, 1, 1))
    return (jnp.where(flip[..., None], images[:, :, ::-1], images), jnp.where(flip, labels[:, :, ::-1], labels))


def _resample(image: Float[Array, "h w c"], scale: Array, shift: Array, size: tuple[int, int]) -> Array:
    return jax.image.scale_and_translate(
        image, (*size, image.shape[-1]), (0, 1), jnp.stack([scale, scale]), shift, method="linear"
    )


def _nearest(label: Int[Array, "h w"], scale: Array, shift: Array, size: tuple[int, int], ignore: int) -> Array:
    at = [jnp.floor((jnp.arange(n) + 0.5 - shift[axis]) / scale).astype(jnp.int32) for axis, n in enumerate(size)]
    rows, columns = (jnp.clip(places, 0, n - 1) for places, n in zip(at, label.shape, strict=True))
    inside = [(places >= 0) & (places < n) for places, n in zip(at, label.shape, strict=True)]
    return jnp.where(inside[0][:, None] & inside[1][None], label[rows][:, columns], ignore)
