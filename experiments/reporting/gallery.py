"""The README's figures, from results on disk:  python -m experiments.reporting gallery [--out docs]

levels.png         levels and occupancy through training (results/digits_demo, by `make demo`)
sizes.png          figure against bits against bytes, for every method and data set (arenas, and tables of runs)
segmentation.png   predictions beside the truth, where the runs are in --runs (runs/camvid_*, by experiments.train)
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.config import Config
from experiments.models import small as models
from experiments.reporting import pictures, plots
from experiments.reporting.collect import method_of, trains
from experiments.reporting.plots import Panel
from experiments.reporting.rows import RESULTS, Rows
from experiments.runtime import console
from experiments.tasks.base import MEASURES
from mecq_jax.granularity import PerTensor
from mecq_jax.nn import parameters_by_path
from mecq_jax.params import default_rules, make_plan

# Height and width, channels and classes of the images of arenas.
SHAPES = {"fashion_mnist": (28, 1, 10), "cifar10": (32, 3, 10), "cifar100": (32, 3, 100)}
FIRST = "mec"  # drawn above the others
SEGMENTATION = ("camvid_unet_w2_float", "camvid_unet_w3", "camvid_unet_w2")  # the first is float, trained on


def packed_bytes(config: Config, k: int) -> float:
    """Bytes of the packed weights of a config's network at k levels: codes at log2(k) bits a weight, k float32 levels a
    tensor, all else in float32; without a file's header and padding."""
    size, channels, classes = SHAPES[config.dataset]
    network = models.build(config.model, channels, size // config.downscale, classes, config.width, seed=0)
    leaves = parameters_by_path(network)
    quantized = make_plan(leaves, default_rules(config.quantizer(), leaves)).quantizers
    if any(q.granularity != PerTensor() for q in quantized.values()):
        raise ValueError(f"groups = {config.groups!r}: bytes are counted for levels per tensor alone")
    return sum(
        leaf.size * np.log2(k) / 8 + 4 * k if path in quantized else 4 * leaf.size for path, leaf in leaves.items()
    )


def of_arena(name: str) -> Panel:
    """A panel of an arena's rows; bytes of the weights."""
    folder = RESULTS / "arena" / name
    config = Config(**json.loads((folder / "arena.json").read_text(encoding="utf-8"))["config"])
    rows = Rows(folder).rows
    scores: dict[str, dict[float, float]] = {FIRST: {}}
    for row in rows:
        scores.setdefault(row["method"], {})[np.log2(max(row["k"], 1))] = 100 * float(np.mean(row["last"]))
    floating = scores.pop("float")[0]
    sizes = {bits: packed_bytes(config, round(2**bits)) for bits in scores[FIRST]}
    return Panel(f"{config.dataset}, {config.model}", "test accuracy (%)", scores, sizes, floating)


def of_runs(name: str) -> Panel:
    """A panel of the rows that `reporting collect` wrote; bytes of the files. What was run with fewer seeds than the
    first method is left out."""
    rows = [row for row in Rows(RESULTS / name).rows if trains(row)]
    measure, config = rows[0]["measure"], rows[0]["config"]
    kind = MEASURES[measure]
    found: dict[str, dict[float, list[float]]] = {FIRST: {}}
    sizes = {}
    for row in rows:
        found.setdefault(method_of(row), {}).setdefault(np.log2(row["k"]), []).append(kind.factor * row["hard"])
        if method_of(row) == FIRST:
            sizes[np.log2(row["k"])] = row["bytes"]
    if "float" not in found:
        raise ValueError(f"{name} has no run of method 'float', to compare with; experiments.sweep makes one")
    floating = float(np.mean([np.mean(x) for x in found.pop("float").values()]))
    seeds = {bits: len(x) for bits, x in found[FIRST].items()}
    scores = {
        method: {bits: float(np.mean(x)) for bits, x in own.items() if len(x) >= seeds.get(bits, 0)}
        for method, own in found.items()
    }
    scores = {method: own for method, own in scores.items() if own}
    unit = f"test {kind.title}{' (%)' if '%' in kind.sign else ''}"
    return Panel(f"{config['dataset']}, {config['model']}", unit, scores, sizes, floating)


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = console.parser("reporting gallery", __doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args(arguments)
    levels = RESULTS / "digits_demo" / "mec_0" / "levels.npz"
    plots.levels_over_training(options.out / "levels.png", **np.load(levels))
    panels = [of_arena(path.parent.name) for path in sorted((RESULTS / "arena").glob("*/arena.json"))]
    panels += [of_runs(name) for name in ("camvid", "text8") if (RESULTS / name / "rows.jsonl").is_file()]
    plots.size_against_score(options.out / "sizes.png", panels)
    runs = [options.runs / name for name in SEGMENTATION]
    if all((run / "model.safetensors").is_file() for run in runs):
        pictures.draw(runs, 3, options.out / "segmentation.png")
    return 0
