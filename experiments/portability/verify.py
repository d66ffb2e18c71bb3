"""Reload a run's packed model in a fresh process and compare it with what was evaluated, number by number.

python -m experiments.verify RUN_FOLDER

The file is read by mecq_jax.reader (NumPy only); every weight and every test prediction must be the same.
"""

import sys
from pathlib import Path

import numpy as np

import mecq_reader


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
    from experiments.config import Config
    from experiments.tasks.registry import make_task  # the model runs in JAX; the file was read without it
    from experiments.training.run import unflatten

    spec = mecq_reader.read_spec(folder / "model.safetensors")
    task = make_task(Config(**spec["extra"]["config"]))
    predictions = task.predict(*unflatten(dense, task))
    wrong = np.flatnonzero(predictions != expected["predictions"])
    if wrong.size:
        raise ValueError(f"prediction {wrong[0]} of {folder} differs: {wrong.size} of {predictions.size} do")
    return weights, len(predictions)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        weights, predictions = verify(Path(argument))
        print(f"{argument}: {weights:,} weights and {predictions:,} predictions are the same after reloading")
