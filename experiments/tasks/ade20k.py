"""ADE20K's scene parsing benchmark, 150 classes, for `segment.Task`: images and masks read from disk as needed.

dataset 'ade20k': the folder that the benchmark publishes, 20,210 train and 2,000 validation images (Zhou et al., 2016,
arXiv 1608.05442):

    ROOT/images/training/NAME.jpg    ROOT/annotations/training/NAME.png    ROOT/images/validation/...

dataset 'scene_parse150': what tensorflow-datasets prepares by that name. It takes the archive annotations_instance of
the 2017 challenge, whose masks hold one of 100 classes of things in the first of 3 channels (README of the task in
CSAILVision/placeschallenge): figures on it are not those of the benchmark.
"""

import dataclasses
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.config import Config
from experiments.data import decode, masks
from experiments.data.decode import IGNORE, Size
from experiments.data.in_memory import data_root
from experiments.data.stream import Example, Records, Stream, open_tfds
from experiments.models import segmentation as networks
from experiments.models.imagenet import MEAN, STD
from experiments.tasks.base import parts, refuse
from experiments.tasks.segmentation import UNUSED, Task

COUNT = 150
DATASETS = ("ade20k", "scene_parse150")
_MISSING = """No ADE20K image in {folder}.
With internet access, fetch http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip and unpack it; then
    --data_dir <folder>/ADEChallengeData2016   (it holds images/training and annotations/training)"""


@dataclasses.dataclass(frozen=True)
class Folder:
    """Records {"image", "annotation"} of one split ('training' or 'validation') of the published folder."""

    root: Path
    split: str

    @cached_property
    def names(self) -> list[str]:
        """Images without their endings, in order."""
        folder = self.root / "images" / self.split
        found = sorted(path.stem for path in folder.glob("*.jpg"))
        if not found:
            raise FileNotFoundError(_MISSING.format(folder=folder))
        return found

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        name = self.names[index]
        with Image.open(self.root / "images" / self.split / f"{name}.jpg") as image:
            pixels = np.array(image.convert("RGB"))
        with Image.open(self.root / "annotations" / self.split / f"{name}.png") as mask:
            return {"image": pixels, "annotation": np.array(mask)}


def labels(annotation: np.ndarray, size: Size) -> np.ndarray:
    """uint8 `size`: the classes 1 to 150 of a mask [h, w] or [h, w, c] (its first channel) as 0 to 149, else IGNORE."""
    mask = annotation if annotation.ndim == 2 else annotation[..., 0]
    mask = np.where((mask >= 1) & (mask <= COUNT), mask.astype(np.int32) - 1, IGNORE).astype(np.uint8)
    return mask if mask.shape == size else decode.resize(mask, size, nearest=True)


def for_training(size: Size, record: Example, rng: np.random.Generator) -> Example:
    """A random crop at a random scale, mirrored or not."""
    image = decode.rgb(record["image"])
    mask = labels(record["annotation"], image.shape[:2])
    image, mask = decode.random_scale_crop(rng, image, mask, size)
    return {"image": image, "label": mask}


def for_testing(size: Size, record: Example, rng: np.random.Generator) -> Example:
    """The whole image, as large as it fits; the benchmark itself compares at the size of the file."""
    image = decode.rgb(record["image"])
    image, mask = decode.whole(image, labels(record["annotation"], image.shape[:2]), size)
    return {"image": image, "label": mask}


def classes() -> masks.Classes:
    """The 150 classes by their numbers in the files; the archive's objectInfo150.txt has their names."""
    names = tuple(str(i + 1) for i in range(COUNT))
    return masks.Classes(names=names, colours=masks.palette(COUNT), ignore=IGNORE)


def _open(config: Config) -> tuple[Records, Records]:
    """(train, test)."""
    if config.dataset == "ade20k":
        root = data_root(config.data_dir)
        return Folder(root, "training"), Folder(root, "validation")
    return open_tfds(config.dataset, "train", config.data_dir), open_tfds(config.dataset, "test", config.data_dir)


def make_task(config: Config, records: tuple[Records, Records] | None = None) -> Task:
    """Open the data (unless given as (train, test)) and build the model that `config` names."""
    if config.dataset not in DATASETS:
        raise ValueError(f"unknown data set {config.dataset!r}; use one of {', '.join(DATASETS)}")
    if config.size is None:
        raise ValueError("size is None: it must be the height and width to train at, such as (512, 512)")
    refuse(config, ("augment", *UNUSED), "the stream scales, cuts and mirrors")
    found = _open(config) if records is None else records
    train = Stream(found[0], partial(for_training, config.size), config.train_size, config.workers)
    test = Stream(found[1], partial(for_testing, config.test_size or config.size), workers=config.workers)
    model = networks.made(config, COUNT)
    return Task(
        config=config, train_source=train, test_source=test, classes=classes(), mean=MEAN, std=STD, **parts(model)
    )
