"""A folder of images and masks as arrays in memory:

ROOT/train/images/NAME.jpg   ROOT/train/masks/NAME.png   ROOT/test/images/...   (or val, where there is no test)
ROOT/classes.json            {"names": ["road", ...], "colours": [[128, 64, 128], ...], "ignore": 255}, optional

Any format that Pillow reads. A mask has one channel (or a palette) whose values are the classes, from 0 on.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.data.colours import CYCLE
from experiments.data.decode import IGNORE, Size
from experiments.data.in_memory import channel_statistics

Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classes:
    """names and colours (0 to 255) of the classes 0, 1, ...; ignore: the label of pixels that count for nothing."""

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    ignore: int = IGNORE

    def __post_init__(self):
        if len(self.names) != len(self.colours):
            raise ValueError(f"{len(self.names)} names and {len(self.colours)} colours; give each class one of both")
        if 0 <= self.ignore < len(self.names):
            raise ValueError(
                f"ignore = {self.ignore} is the class {self.names[self.ignore]!r}; give a label that is "
                f"none of the classes 0 to {len(self.names) - 1}"
            )


# The eleven classes of CamVid (Brostow et al., 2009) as SegNet took them, in its order and colours; 11 is void.
CAMVID = Classes(
    names=("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),
    colours=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    ignore=11,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masks:
    """Images uint8 [n, h, w, 3] with labels uint8 [n, h, w]; mean and std of each channel of the train pixels / 255."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: Classes
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load(
    root: str | Path | None,
    size: Size | None = None,
    classes: Classes | None = None,
    train_size: int | None = None,
    test_size: Size | None = None,
) -> Masks:
    """The folder `root`, at `size` (height, width): images by the mean over areas, masks by the nearest pixel.

    size: None leaves images as they are, all of one size then.
    classes: None: those of ROOT/classes.json, or as many as the masks of the train split hold.
    train_size: keep this many train images, a fixed random choice.
    test_size: of the test images, where it is another one.

    Raises:
      FileNotFoundError: where a folder or an image's mask is missing.
      ValueError: at an empty folder, sizes that differ, or a label beyond the classes; each names the file.
    """
    if root is None:
        raise ValueError(
            "data_dir is None; give the folder that holds train/images, train/masks and test/... with --data_dir=PATH"
        )
    folder = Path(root).expanduser()
    train = _pairs(folder / "train")
    if train_size is not None:
        if not 1 <= train_size <= len(train):
            raise ValueError(f"train_size is {train_size}, must be from 1 to {len(train)}; leave it None for all")
        train = [train[i] for i in np.random.RandomState(0).permutation(len(train))[:train_size]]
    test = _pairs(folder / ("test" if (folder / "test").is_dir() else "val"))
    images, labels = _read(train, size)
    test_images, test_labels = _read(test, test_size or size or images.shape[1:3])
    classes = classes or _classes(folder, labels)
    for pairs, found in ((train, labels), (test, test_labels)):
        _check_labels(pairs, found, classes)
    mean, std = channel_statistics(images)
    return Masks(
        train_images=images,
        train_labels=labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=classes,
        mean=mean,
        std=std,
    )


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """(image, mask) of each name in images/, sorted."""
    for part in (folder / "images", folder / "masks"):
        if not part.is_dir():
            raise FileNotFoundError(
                f"{part} is not a folder; data_dir must hold train/ and test/ (or val/), each with images/ and masks/"
            )
    images = {path.stem: path for path in sorted((folder / "images").iterdir()) if not path.name.startswith(".")}
    masks = {path.stem: path for path in (folder / "masks").iterdir()}
    if not images:
        raise ValueError(f"{folder / 'images'} is empty")
    if alone := [path for stem, path in images.items() if stem not in masks]:
        raise FileNotFoundError(
            f"{alone[0]} has no mask {folder / 'masks' / alone[0].stem}.*; {len(alone)} of "
            f"{len(images)} images have none"
        )
    return [(path, masks[stem]) for stem, path in images.items()]


def _read(pairs: Sequence[tuple[Path, Path]], size: Size | None) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels) at `size`; None: at their own, which must be that of the first."""
    from PIL import Image

    images, labels = [], []
    for image_path, mask_path in pairs:
        with Image.open(image_path) as image_file, Image.open(mask_path) as mask_file:
            image, mask = image_file.convert("RGB"), mask_file.copy()
        if image.size != mask.size:
            raise ValueError(
                f"{image_path} is {_size(image.size)} and its mask {mask_path} {_size(mask.size)}; a "
                "mask must be of its image's size"
            )
        if mask.mode not in ("L", "P", "1"):
            raise ValueError(
                f"{mask_path} is of mode {mask.mode}; a mask has one channel of 8 bits (L) or a "
                "palette (P), whose values are the classes"
            )
        if size is not None and image.size != (wanted := (size[1], size[0])):
            smaller = wanted[0] <= image.width and wanted[1] <= image.height
            image = image.resize(wanted, Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR)
            mask = mask.resize(wanted, Image.Resampling.NEAREST)
        images.append(np.asarray(image))
        labels.append(np.asarray(mask, np.uint8))
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"{image_path} is {images[-1].shape[:2]} and {pairs[0][0]} {images[0].shape[:2]}; give "
                "size=(height, width) to bring all to one"
            )
    return np.stack(images), np.stack(labels)


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"


def _classes(folder: Path, labels: np.ndarray) -> Classes:
    """Those that classes.json says, or as many as the labels hold."""
    path = folder / "classes.json"
    if path.is_file():
        said = json.loads(path.read_text(encoding="utf-8"))
        if "names" not in said:
            raise ValueError(
                f'{path} holds no \'names\'; it is {{"names": [...], "colours": [[r, g, b], ...], '
                '"ignore": 255}, the last two optional'
            )
        names = tuple(said["names"])
        colours = tuple(tuple(c) for c in said.get("colours", palette(len(names))))
        return Classes(names=names, colours=colours, ignore=said.get("ignore", IGNORE))
    count = int(labels[labels != IGNORE].max(initial=0)) + 1
    return Classes(names=tuple(str(i) for i in range(count)), colours=palette(count))


def palette(count: int) -> tuple[Colour, ...]:
    """`count` colours: the figures' own, and beyond them mixtures of each with black."""
    own = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in CYCLE]
    rounds = -(-count // len(own))
    mixed = [tuple(round(v * (1 - r / (rounds + 1))) for v in c) for r in range(rounds) for c in own]
    return tuple((r, g, b) for r, g, b in mixed[:count])


def _check_labels(pairs: Sequence[tuple[Path, Path]], labels: np.ndarray, classes: Classes) -> None:
    beyond = (labels >= len(classes.names)) & (labels != classes.ignore)
    if beyond.any():
        first = int(beyond.any(axis=(1, 2)).argmax())
        raise ValueError(
            f"{pairs[first][1]} holds the label {int(labels[first][beyond[first]][0])}, beyond the "
            f"{len(classes.names)} classes and not the ignore label {classes.ignore}; name all classes "
            "in classes.json, or set its ignore"
        )
