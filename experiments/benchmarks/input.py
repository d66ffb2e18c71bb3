"""Whether the input keeps up: images/s of a Stream alone beside those of the training step that it feeds.

python -m experiments.benchmarks input [--tiny --out DIR]   some 2 minutes on two cores; goes on where it stopped

Photographs of ImageNet's mean size, 500 x 375, are generated (smooth colours and noise, JPEG of some 100 KB each), held
in memory as files are in the page cache, decoded and cut as configs/imagenet_resnet18.py trains on them. The step is
the soft one of that config; on a CPU with a batch of 8.
"""

import dataclasses
import io
import os
import time
from functools import partial

import jax
import numpy as np
from PIL import Image

from experiments.benchmarks import measure
from experiments.config import CONFIGS, Config, load
from experiments.data.decode import Size
from experiments.data.stream import THREADS, Example, Stream
from experiments.reporting.measured import Pieces
from experiments.reporting.rows import Columns, Row
from experiments.tasks import streamed_classification as imagenet
from experiments.training.recipe import quantized_trainer
from mecq_jax.params import quantize_tree

CONFIG = CONFIGS / "imagenet_resnet18.py"
NAME = "imagenet_resnet18_w2"  # of the run at 2 bits, in the rows
SIZE = (375, 500)


class Photographs:
    """Generated JPEG files in memory, decoded when they are asked for."""

    def __init__(self, files: int, count: int):
        rng = np.random.default_rng(0)
        self.files, self.count = [_photograph(rng) for _ in range(files)], count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        with Image.open(io.BytesIO(self.files[index % len(self.files)])) as image:
            return {"image": np.asarray(image), "label": index % 1000}


def _photograph(rng: np.random.Generator) -> bytes:
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(SIZE[::-1], Image.Resampling.BICUBIC)
    pixels = np.asarray(smooth, np.float32) + rng.normal(scale=20.0, size=(*SIZE, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def stream_rate(config: Config, size: Size, workers: int, batches: int) -> tuple[float, float]:
    """(images/s, seconds to the first batch) of a stream that is read as fast as it gives.

    The rate is that of the second half, when what was read ahead behind the first batch is used up.
    """
    records = Photographs(32, config.batch * batches)
    stream = Stream(records, partial(imagenet.for_training, size), workers=workers)
    times = [time.perf_counter()]
    for _ in stream.epoch(config.batch, 0, 1):
        times.append(time.perf_counter())
    half = batches // 2
    return config.batch * (batches - half) / (times[-1] - times[half]), times[1] - times[0]


def step_rate(config: Config, repeats: int) -> float:
    """images/s of the soft step on a batch that is there already."""
    photographs = Photographs(2, config.batch)
    task = imagenet.make_task(config, {"train": photographs, "validation": photographs})
    trainer = quantized_trainer(config, task.loss_fn, 100)
    start = trainer.init(task.params, quantize_tree(task.params, config.rules(task.order)), task.model_state)
    batch = next(iter(task.train.once(config.batch)))
    work = measure.compiled(trainer.soft_step, start, batch, feed=lambda result: (result[0], batch))
    return config.batch / measure.seconds({"step": work}, repeats)["step"]


def rates(tiny: bool) -> list[Row]:
    """A row for every number of workers."""
    config = dataclasses.replace(load(CONFIG), float_run=None)
    if jax.default_backend() == "cpu":
        config = dataclasses.replace(config, batch=8, compute="float32")
    if tiny:
        config = dataclasses.replace(config, batch=2, size=(32, 32), width=8)
    kilobytes = sum(map(len, Photographs(32, 1).files)) / 32e3
    reading, size, batches = (config, (32, 32), 2) if tiny else (dataclasses.replace(config, batch=64), (224, 224), 24)
    # On a CPU both want the same cores: first the one, then the other.
    found = {workers: stream_rate(reading, size, workers, batches) for workers in (0, 1, 2)}
    step = step_rate(config, 1 if tiny else 3)
    return [
        {
            "key": f"{NAME} workers {workers}",
            "config": NAME,
            "workers": workers,
            "threads": THREADS,
            "cores": os.cpu_count(),
            "kilobytes": kilobytes,
            "batch": reading.batch,
            "step_batch": config.batch,
            "input": rate,
            "first": first,
            "step": step,
            "ratio": rate / step,
        }
        for workers, (rate, first) in found.items()
    ]


COLUMNS: Columns = {
    "config": lambda r: r["config"],
    "read by": lambda r: f"processes: {r['workers']}" if r["workers"] else f"threads: {r['threads']}",
    "KB an image": lambda r: f"{r['kilobytes']:.0f}",
    "input, images/s": lambda r: f"{r['input']:.0f}",
    "first batch, s": lambda r: f"{r['first']:.1f}",
    "step, images/s": lambda r: f"{r['step']:.2f}",
    "input / step": lambda r: f"{r['ratio']:.1f}",
}


def pieces(tiny: bool) -> Pieces:
    return {f"{NAME} workers 0": partial(rates, tiny)}
