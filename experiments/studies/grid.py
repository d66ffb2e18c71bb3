"""What does an integer grid cost in accuracy?

A network is trained as its config says, packed, and put on an integer grid (`mecq_jax.integer`): levels are integers of
`level_bits` times a power of two, activations that meet weights integers of `activation_bits`; float kernels, biases
and norms are rounded as well. Nothing is trained afterwards. Ranges come from `ranges` training images; accuracy is
that of all test images, the difference to the packed network at equal seeds.

    python -m experiments.studies grid [--field=value ...] [--out DIR]       # 4 minutes on 2 CPU cores
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import config as configs
from experiments.data.colours import CYCLE
from experiments.portability.forward import forward_of
from experiments.reporting.plots import caption, panels, save
from experiments.reporting.rows import section
from experiments.runtime.formatting import mean_std
from experiments.tasks.classification import make_task
from experiments.training.run import run
from mecq_jax import export, inference, storage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """`network`: a file of experiments/configs, with `overrides`; the bits to try; `ranges`: images that set ranges."""

    network: str = "digits_cnn"
    seeds: int = 3
    level_bits: tuple[int, ...] = (8, 6, 4, 3)
    activation_bits: tuple[int, ...] = (8, 6, 4, 3)
    ranges: int = 256
    overrides: tuple[str, ...] = ()


def compute(config: Config) -> dict[str, Any]:
    """records: one for each seed and pair of bits; packed, float: accuracies by seed."""
    records, accuracies, floats = [], [], []
    for seed in range(config.seeds):
        base = configs.load(configs.CONFIGS / f"{config.network}.py")
        own = configs.override(base, [*config.overrides, f"--seed={seed}"])
        task = make_task(own)
        with tempfile.TemporaryDirectory() as folder:
            result = run(own, Path(folder) / "run", task=task)
            tensors = storage.load(result.folder / "model.safetensors")
        forward, images, labels = forward_of(task), task.dataset.test_images, task.dataset.test_labels

        def accuracy(forward, tensors, images=images, labels=labels):
            logits = jax.jit(forward)(inference.dense(inference.to_device(tensors)), images)
            return float(np.mean(np.asarray(logits).argmax(axis=1) == labels))

        accuracies.append(accuracy(forward, tensors))
        floats.append(result.float_score)
        for level_bits in config.level_bits:
            for activation_bits in config.activation_bits:
                bits = {"level_bits": level_bits, "activation_bits": activation_bits}
                grid = export.integer_grid(forward, tensors, task.dataset.train_images[: config.ranges], **bits)
                found = {"accuracy": accuracy(grid.forward, grid.tensors), "largest": grid.largest}
                records.append({"seed": seed, **bits, **found})
    return {"records": records, "packed": accuracies, "float": floats}


def cost(data: dict[str, Any], level_bits: int, activation_bits: int) -> np.ndarray:
    """Points by which each seed's accuracy is above that of the packed network off the grid."""
    found = [r for r in data["records"] if (r["level_bits"], r["activation_bits"]) == (level_bits, activation_bits)]
    return np.array([100 * (r["accuracy"] - data["packed"][r["seed"]]) for r in found])


def _bits(data: dict[str, Any], what: str) -> list[int]:
    return sorted({r[what] for r in data["records"]}, reverse=True)


def tables(data: dict[str, Any]) -> list[str]:
    levels, activations = _bits(data, "level_bits"), _bits(data, "activation_bits")
    rows = [[str(a), *(mean_std(cost(data, b, a), "+.2f") for b in levels)] for a in activations]
    accuracies = [f"{100 * np.mean(data[what]):.2f}" for what in ("float", "packed")]
    title = (
        f"Accuracy on the grid less that of the packed network ({accuracies[1]} %; float {accuracies[0]} %), in "
        "points, mean ± std over seeds"
    )
    return [section(title, ["bits of activations", *(f"levels of {b} bits" for b in levels)], rows)]


def draw(path: Path, data: dict[str, Any]) -> None:
    figure, (axis,) = panels(1, 1, "What an integer grid costs", width=6, height=4)
    activations = _bits(data, "activation_bits")
    for b, colour in zip(_bits(data, "level_bits"), CYCLE, strict=False):
        means = [cost(data, b, a).mean() for a in activations]
        axis.plot(activations, means, color=colour, marker="o", markersize=3, label=f"levels of {b} bits")
    caption(axis, "test accuracy less the packed network's", "bits of activations", "points")
    axis.legend(frameon=False, fontsize=8)
    save(figure, path)
