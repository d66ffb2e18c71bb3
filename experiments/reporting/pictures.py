"""Images, their truth and what runs make of them, side by side:  python -m experiments.reporting pictures ...

python -m experiments.reporting pictures --folder runs/A --folder runs/B --images 3 -o file.png   [--data_dir PATH]

A column for each run shows the prediction of its packed file, model.safetensors (which of a *_float config without soft
and hard epochs holds the network rounded, not trained); --data_dir where the masks' folder now
is, if not where the run had it.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.patches import Patch

import mecq_reader
from experiments.config import Config
from experiments.data.masks import Classes
from experiments.reporting.migrate import renamed
from experiments.reporting.plots import panels
from experiments.runtime import console
from experiments.tasks import registry as tasks
from experiments.tasks import segmentation as segment
from experiments.training.run import unflatten

WIDTH = 900  # pixels
_DPI = 130  # of `plots.panels`


def coloured(labels: np.ndarray, classes: Classes) -> np.ndarray:
    """uint8 [h, w, 3]: the colour of each pixel's class, black where there is none."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(classes.colours)] = classes.colours
    return table[np.clip(labels, 0, 255)]


def figure(path: Path, images: np.ndarray, columns: Sequence[tuple[str, np.ndarray]], classes: Classes) -> None:
    """Writes a PNG of WIDTH pixels: a row for each image, a column for it and one for each map of its classes.

    images: uint8 [n, h, w, 3]; columns: (title, labels [n, h, w]); the legend has the classes that occur in them.
    """
    across = len(columns) + 1
    cell = WIDTH / _DPI / across * images.shape[1] / images.shape[2]
    seen = set(np.unique(np.stack([labels for _, labels in columns])).tolist())
    known = [(n, c) for i, (n, c) in enumerate(zip(classes.names, classes.colours, strict=True)) if i in seen]
    lines = -(-len(known) // 6)
    above, below = 0.45, 0.15 + 0.2 * lines  # inches
    height = len(images) * (cell + 0.04) + above + below
    drawing, axes = panels(len(images), across, "", WIDTH / _DPI, height)
    for row, image in enumerate(images):
        shown = [("image", image), *((title, coloured(labels[row], classes)) for title, labels in columns)]
        for column, (title, pixels) in enumerate(shown):
            axis = axes[row * across + column]
            axis.imshow(pixels, interpolation="nearest")
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title, fontsize=8)
    handles = [Patch(color=(r / 255, g / 255, b / 255), label=name) for name, (r, g, b) in known]
    drawing.legend(handles=handles, loc="lower center", ncols=6, fontsize=8, frameon=False, columnspacing=1.2)
    drawing.subplots_adjust(0.005, below / height, 0.995, 1 - above / height, wspace=0.02, hspace=0.02)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, format="png")


def chosen(task: segment.Task, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels) of `count` examples, evenly spread over the test set."""
    if not 1 <= count <= len(task.test):
        raise ValueError(f"images = {count}, must be from 1 to the {len(task.test)} of the test set")
    wanted = set(np.linspace(0, len(task.test) - 1, count).round().astype(int).tolist())
    found: list[tuple[np.ndarray, np.ndarray]] = []
    number = 0
    for batch in task.test.once(task.test_batch):
        for image, label in zip(batch["image"], batch["label"], strict=True):
            if number in wanted and len(found) < len(wanted):
                found.append((image, label))
            number += 1
    images, labels = zip(*found, strict=True)
    return np.stack(images), np.stack(labels)


def draw(folders: Sequence[Path], count: int, path: Path, data_dir: str | None = None) -> None:
    """The figure of the runs in `folders`; all of the first one's data."""
    columns: list[tuple[str, np.ndarray]] = []
    task: segment.Task | None = None
    for folder in folders:
        config = Config(**renamed(mecq_reader.read_spec(folder / "model.safetensors")["extra"]["config"]))
        config = dataclasses.replace(config, data_dir=data_dir or config.data_dir)
        if task is None:
            made = tasks.make_task(config)
            if not isinstance(made, segment.Task):
                raise ValueError(f"{folder} is of the task {config.task!r}; the pictures are of segmentation")
            task = made
            images, labels = chosen(task, count)
            columns.append(("truth", labels))
        else:
            task = task.of_config(config)
        found = task.class_map(*unflatten(mecq_reader.read_dense(folder / "model.safetensors"), task), images)
        score = task.score(np.load(folder / "evaluated.npz")["predictions"])
        trained = "float" if config.method == "float" else f"{config.method}, {np.log2(config.k):.3g} bits"
        columns.append((f"{trained}\n{task.kind.title} {task.kind.shown(score)}", np.asarray(found)))
    assert task is not None
    figure(path, images, columns, task.classes)


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = console.parser("reporting pictures", __doc__)
    parser.add_argument("--folder", type=Path, action="append", required=True, help="a finished run's; repeat it")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--data_dir")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    return console.status(lambda: draw(options.folder, options.images, options.output, options.data_dir))
