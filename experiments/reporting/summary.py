"""The README's table: one row a task, at 2 bits, from the rows on disk:  python -m experiments.reporting tables

The float network trains on by the same recipe for as long as the others; figures are of the packed file, last epoch.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.reporting.rows import RESULTS, Columns, Row, Rows, table
from experiments.runtime.formatting import mean_std
from experiments.runtime.run_folder import read_metrics

Figures = Mapping[str, Sequence[float]]  # 'float', 'mec', 'lsq': a figure for each seed
NOTE = """All figures are measured. n: seeds; mean ± sample standard deviation. Hardware: as the rows record it.
Commit: of the code that made the method's rows, + with changes that were not committed. The commands, row by row:

"""


def _arena(name: str) -> tuple[Figures, Row]:
    rows = {row["method"]: row for row in Rows(RESULTS / "arena" / name).rows if row["k"] in (0, 4)}
    return {method: rows[method]["last"] for method in ("float", "mec", "lsq")}, rows["mec"]


def _sweep(name: str, method: str) -> tuple[Figures, Row]:
    runs = Rows(RESULTS / name).rows
    quantized = [
        r for r in runs if r["config"]["soft_epochs"] + r["config"]["hard_epochs"] and r["config"]["float_run"]
    ]
    prior = "lloyd_max" if method.endswith("lloyd_max") else None
    wanted: dict[str, Callable[[Row], bool]] = {
        "float": lambda r: r["method"] == "float",
        "mec": lambda r: r["method"] == "mec" and r["k"] == 4 and r["config"]["prior"] == prior,
        "lsq": lambda r: r["method"] == "lsq" and r["k"] == 4,
    }
    found = {which: [row for row in quantized if fits(row)] for which, fits in wanted.items()}
    return {which: [row["hard"] for row in rows] for which, rows in found.items()}, found["mec"][-1]


def _fine_tune(name: str, learning_rate: float) -> tuple[Figures, Row]:
    def of(weights: str, bits: int, **recipe: object) -> list[Row]:
        return [
            row
            for row in Rows(RESULTS / "pretrained" / name).rows
            if (key := row["key"])["weights"] == weights
            and (key["bits"], key["statistics"]) == (bits, "re-estimated")
            and {"learning_rate": learning_rate, **recipe}.items() <= key["recipe"].items()
        ]

    mec = of("fine-tuned, MEC", 2, prior="lloyd_max")
    found = {"float": of("float, trained on", 32), "mec": mec, "lsq": of("fine-tuned, LSQ", 2)}
    return {which: [row["accuracy"] for row in rows] for which, rows in found.items()}, mec[-1]


def _demo() -> tuple[Figures, Row]:
    folder = RESULTS / "digits_demo"

    def last(pattern: str, name: str) -> list[float]:
        return [read_metrics(f / "metrics.jsonl")[-1][name] for f in sorted(folder.glob(pattern))]

    figures = {"float": last("mec_*", "final_float_accuracy"), "mec": last("mec_*", "final_hard_accuracy")}
    of = json.loads((folder / "mec_0" / "versions.json").read_text())
    return figures | {"lsq": last("lsq_*", "final_hard_accuracy")}, {"versions": of}


def rows() -> list[Row]:
    """A row for every task."""
    arena = "experiments.arena experiments/configs/arena"
    found: list[tuple[str, str, str, tuple[Figures, Row]]] = [
        ("digits, accuracy, %", "small CNN", "experiments.demo", _demo()),
        ("Fashion-MNIST 14 x 14, accuracy, %", "MLP of width 32", f"{arena}/fashion_small.py", _arena("fashion_small")),
        ("CIFAR-10 16 x 16, accuracy, %", "mixer of width 32", f"{arena}/cifar10_small.py", _arena("cifar10_small")),
        (
            "CIFAR-10, fine-tuned 100 steps, accuracy, %",
            "ResNet-56",
            "experiments.published study --bits='(2,)' --seeds=3",
            _fine_tune("resnet56", 2e-4),
        ),
        ("CamVid, mean IoU, %", "U-shaped, 1.2 M weights", "experiments.sweep camvid", _sweep("camvid", "mec")),
        (
            "text8, bits per character (lower is better)",
            "Llama-like, 0.8 M",
            "experiments.sweep text8",
            _sweep("text8", "mec_lloyd_max"),
        ),
    ]
    return [
        {"task": task, "network": network, "command": f"python -m {command}", "figures": figures, "row": row}
        for task, network, command, (figures, row) in found
    ]


def _shown(which: str) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        percent = row["task"].endswith("%")
        return mean_std(row["figures"][which], ".2f" if percent else ".3f", 100.0 if percent else 1.0)

    return show


def _hardware(row: Row) -> str:
    kind, cores = row["row"]["versions"]["device"]["kind"], row["row"].get("cores")
    return f"{kind}, {cores} cores" if cores else kind


def _commit(row: Row) -> str:
    git = row["row"]["versions"]["git"]
    return git["commit"][:7] + "+" * git["dirty"]


COLUMNS: Columns = {
    "task": lambda r: r["task"],
    "network": lambda r: r["network"],
    "float, same recipe": _shown("float"),
    "MEC": _shown("mec"),
    "LSQ": _shown("lsq"),
    "n": lambda r: str(len(r["figures"]["mec"])),
    "hardware": _hardware,
    "commit": _commit,
}
PATH: Path = RESULTS / "summary.md"


def text() -> str:
    """The table and what its columns mean."""
    found = rows()
    return f"{table(COLUMNS, found)}\n{NOTE}" + "".join(f"    {row['command']}\n" for row in found)
