"""From a float network to a packed 2-bit file, on real data, in one command:  make demo

scikit-learn's digits, a small CNN, first and last layer float: a float network for each seed, from it 2 bits with
MEC-Quant and, under the same recipe, with LSQ; packed, reloaded in a fresh process and compared number by number.
Everything is left in runs/demo.
"""

import dataclasses
import io
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments import config as configs
from experiments.config import Config
from experiments.reporting import plots
from experiments.runtime import console
from experiments.runtime.formatting import mean_std
from experiments.runtime.run_folder import atomic_write_text, read_metrics
from experiments.tasks.classification import make_task
from experiments.training.run import Result, run
from mecq_jax import transport
from mecq_jax.params import leaves_by_path
from mecq_jax.storage import write_atomically

CONFIG = configs.CONFIGS / "digits_cnn.py"
LAYER = "convs/2/kernel"


class Trace:
    """Levels of one layer, the share of weights at each, and the weights at the start and at the end."""

    def __init__(self):
        self.steps, self.levels, self.occupancy, self.weights = [], [], [], []

    def __call__(self, state, trainer):
        if LAYER in state.quantized.parameters:
            self.steps.append(int(state.step))
            levels = state.quantized.levels(LAYER)
            self.levels.append(np.asarray(levels[0]))
            codes = np.asarray(state.quantized.codes[LAYER]).ravel()
            self.occupancy.append(np.bincount(codes, minlength=len(self.levels[-1])) / codes.size)
            weights = np.asarray(leaves_by_path(state.params)[LAYER]).ravel()
            self.weights = [*self.weights[:1], weights]

    def save(self, path: Path) -> None:
        """What `plots.levels_over_training` draws, as a file."""
        archive = io.BytesIO()
        np.savez(
            archive,
            steps=np.array(self.steps),
            levels=np.stack(self.levels),
            occupancy=np.stack(self.occupancy),
            weights_before=self.weights[0],
            weights_after=self.weights[-1],
            title=np.array(LAYER),
        )
        write_atomically(path, archive.getvalue())


def draw(root: Path, trace: Trace) -> None:
    """Levels and weights over training, entropy and temperature over steps, assignment curves, accuracy."""
    records = read_metrics(root / "metrics.jsonl")
    soft = [r for r in records if "entropy" in r]
    steps, entropy, temperatures = (np.array([r[k] for r in soft]) for k in ("step", "entropy", "temperature"))
    after = trace.weights[-1]
    trace.save(root / "levels.npz")
    plots.levels_over_training(root / "levels.png", **np.load(root / "levels.npz"))
    plots.entropy_and_temperature(root / "entropy.png", steps, entropy, temperatures, {"hard": int(steps[-1])})
    evaluated = [r for r in records if "hard_accuracy" in r and "epoch" in r]
    points = {k: [(r["step"], r[f"{k}_accuracy"]) for r in evaluated if f"{k}_accuracy" in r] for k in ("soft", "hard")}
    series = {k: tuple(np.array(own).T) for k, own in points.items()}
    plots.accuracy(root / "accuracy.png", series)
    grid = np.linspace(after.min(), after.max(), 400, dtype=np.float32)
    levels, curves = trace.levels[-1], []
    for temperature in (0.3, 0.05, 0.01):
        e = temperature * after.var()
        g = transport.solve(after, levels, e).potentials
        p = np.asarray(transport.probabilities(jnp.asarray(grid), jnp.asarray(levels), g, jnp.float32(e))).T
        curves.append((f"temperature = {temperature}", grid, p, p @ levels))
    plots.assignment_curves(root / "assignment.png", curves, f"Assignment of weights to levels, {LAYER}")


def train_seed(base: Config, seed: int, root: Path) -> tuple[Result, Result]:
    """One float network and its two quantized forms; pictures of the first."""
    mec = dataclasses.replace(base, seed=seed)
    lsq = dataclasses.replace(mec, method="lsq", float_run=str(root / f"mec_{seed}"))
    task, trace = make_task(mec), Trace()
    with console.bar(f"seed {seed}  mec ") as progress:
        first = run(mec, root / f"mec_{seed}", progress=progress, task=task, trace=trace)
    draw(first.folder, trace)
    with console.bar(f"seed {seed}  lsq ") as progress:
        second = run(lsq, root / f"lsq_{seed}", progress=progress, task=task)
    return first, second


def table(mec: list[Result], lsq: list[Result]) -> Table:
    """The table: accuracy (mean ± std over seeds), bytes on disk, bits per weight, soft-to-hard gap."""
    out = Table(title="digits, small CNN, test accuracy at the last epoch (%)")
    for column in ("network", "accuracy", "bytes on disk", "bits per quantized weight", "soft-to-hard gap"):
        out.add_column(column, justify="left" if column == "network" else "right")

    spread = partial(mean_std, factor=100)
    float_bytes = (mec[0].folder / "float.safetensors").stat().st_size
    out.add_row("float32", spread([r.float_score for r in mec]), f"{float_bytes:,}", "32", "")
    out.add_row("MEC-Quant 2-bit, soft", spread([r.soft_score for r in mec]), "", "", "")
    for name, results in (("MEC-Quant 2-bit, hard", mec), ("LSQ 2-bit", lsq)):
        gap = spread([r.soft_to_hard_gap for r in results]) if results is mec else ""
        report = results[0].report
        bits = f"{report.bits_per_quantized_weight:.3f}"
        out.add_row(name, spread([r.hard_score for r in results]), f"{report.file_bytes:,}", bits, gap)
    return out


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = console.parser("demo", __doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"))
    known, overrides = parser.parse_known_args(arguments)
    start = time.time()
    base = configs.override(configs.load(CONFIG), overrides)
    results = [train_seed(base, seed, known.folder) for seed in range(known.seeds)]
    mec, lsq = (list(r) for r in zip(*results, strict=True))
    print(mec[0].report)
    folders = [str(r.folder) for r in (*mec, *lsq)]
    verify = ["verify", "--predictions", "--model=experiments.portability.forward:predictions", "--run", *folders]
    subprocess.run([sys.executable, "-m", "mecq_jax.cli", *verify], check=True)
    summary = Console(record=True, width=110)
    summary.print(table(mec, lsq))
    atomic_write_text(known.folder / "table.txt", summary.export_text())
    print(f"{time.time() - start:.0f} s on {jax.devices()[0].platform}; pictures and files in {mec[0].folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
