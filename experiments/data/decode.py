"""What is done to an image between the disk and the device: pure functions of NumPy arrays and a generator.

An image is uint8 [h, w, 3] or gray [h, w] or [h, w, 1]; a mask uint8 [h, w] of classes. Sizes are (height, width).
Images are resized by Pillow's bilinear filter, which averages where it shrinks, as torchvision's transforms of files.
"""

import math

import numpy as np
from PIL import Image

Size = tuple[int, int]
IGNORE = 255  # the class of pixels that count for nothing
FILL = (124, 116, 104)  # ImageNet's mean colour, nearly 0 to a network


def rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] of a gray, colour or transparent image."""
    image = image[..., None] if image.ndim == 2 else image
    return np.repeat(image[..., :1], 3, axis=2) if image.shape[2] < 3 else image[..., :3]


def resize(image: np.ndarray, size: Size, nearest: bool = False) -> np.ndarray:
    """The whole image at `size`; `nearest` for masks, whose numbers have no mean."""
    height, width = size
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(image).resize((width, height), method))


def random_resized_crop(
    rng: np.random.Generator,
    image: np.ndarray,
    size: Size,
    scale: tuple[float, float] = (0.08, 1),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """A random part of the image at `size`: its share of the area is uniform in `scale`, its width over its height
    log-uniform in `ratio` (Szegedy et al., 2014, arXiv 1409.4842, section 6; as torchvision, ten tries, then the
    largest central part whose shape `ratio` allows)."""
    top, left, h, w = _random_box(rng, image.shape[0], image.shape[1], scale, ratio)
    return resize(image[top : top + h, left : left + w], size)


def _random_box(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random part."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(area / shape)), round(math.sqrt(area * shape))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h = min(height, max(1, round(width / ratio[0])))
    w = min(width, max(1, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def flip(rng: np.random.Generator, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The arrays mirrored left to right, all of them or none, with probability 1/2."""
    mirrored = rng.random() < 0.5
    return tuple(x[:, ::-1] if mirrored else x for x in arrays)


def center_crop(image: np.ndarray, size: Size, share: float = 224 / 256) -> np.ndarray:
    """The middle of the image at `size`, after a resize to where `size` is `share` of what it must cover: for 224 x 224
    the shorter side becomes 256."""
    height, width = image.shape[:2]
    factor = max(size[0] / height, size[1] / width) / share
    image = resize(image, (max(size[0], round(height * factor)), max(size[1], round(width * factor))))
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    return image[top : top + size[0], left : left + size[1]]


def random_scale_crop(
    rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, size: Size, scale: tuple[float, float] = (0.5, 2.0)
) -> tuple[np.ndarray, np.ndarray]:
    """(image, mask) at `size`, mirrored or not: a random place of both after a resize by which the image's shorter side
    becomes a factor, uniform in `scale`, of the shorter side of `size`. Where they do not reach, the image is FILL and
    the mask IGNORE."""
    height, width = image.shape[:2]
    factor = rng.uniform(*scale) * min(size) / min(height, width)
    scaled = max(1, round(height * factor)), max(1, round(width * factor))
    image, mask = resize(image, scaled), resize(mask, scaled, nearest=True)
    top, left = (int(rng.integers(max(have - want, 0) + 1)) for have, want in zip(scaled, size, strict=True))
    image, mask = (x[top : top + size[0], left : left + size[1]] for x in (image, mask))
    image, mask = flip(rng, image, mask)
    return _padded(image, size, FILL), _padded(mask, size, IGNORE)


def whole(image: np.ndarray, mask: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """(image, mask), all of both, in the largest form that fits `size`; FILL and IGNORE below or to the right."""
    height, width = image.shape[:2]
    factor = min(size[0] / height, size[1] / width)
    fitting = max(1, round(height * factor)), max(1, round(width * factor))
    image, mask = resize(image, fitting), resize(mask, fitting, nearest=True)
    return _padded(image, size, FILL), _padded(mask, size, IGNORE)


def _padded(array: np.ndarray, size: Size, value: int | tuple[int, ...]) -> np.ndarray:
    """The array in the top left corner of one of `size`, the rest of which is `value`."""
    padded = np.full((*size, *array.shape[2:]), value, array.dtype)
    padded[: array.shape[0], : array.shape[1]] = array
    return padded
