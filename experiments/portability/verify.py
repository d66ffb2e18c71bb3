"""A run's packed model, reloaded, beside what was evaluated:  python -m experiments.portability verify RUN_FOLDER ...

The file is read by mecq_jax.reader (NumPy only); every weight and every test prediction must be the same.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import mecq_reader
from experiments.config import Config
from experiments.reporting.migrate import renamed
from experiments.runtime import console
from experiments.tasks.registry import make_task
from experiments.training.run import unflatten


def verify(folder: Path) -> tuple[int, int]:
    """(weights, predictions) compared; raises ValueError naming the first difference."""
    dense = mecq_reader.read_dense(folder / "model.safetensors")
    expected = np.load(folder / "evaluated.npz")
    weights = 0
    for name in expected.files:
        if name == "predictions":
            continue
        if not np.array_equal(dense[name], expected[name]):
            raise ValueError(f"{name} differs from the evaluated weights in {folder}")
        weights += expected[name].size
    spec = mecq_reader.read_spec(folder / "model.safetensors")
    task = make_task(Config(**renamed(spec["extra"]["config"])))  # whose model runs in JAX
    predictions = task.predict(*unflatten(dense, task))
    wrong = np.flatnonzero(predictions != expected["predictions"])
    if wrong.size:
        raise ValueError(f"prediction {wrong[0]} of {folder} differs: {wrong.size} of {predictions.size} do")
    return weights, len(predictions)


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = console.parser("portability verify", __doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER")
    folders = parser.parse_args(arguments).folders

    def work() -> None:
        for folder in folders:
            weights, predictions = verify(folder)
            print(f"{folder}: {weights:,} weights and {predictions:,} predictions are the same after reloading")

    return console.status(work)
