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
NOTE = "n: seeds; mean ± sample standard deviation. Commit: of the code that made the method's rows."


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
    row = {"versions": of, "device": of["device"]["kind"], "cores": 2}
    return figures | {"lsq": last("lsq_*", "final_hard_accuracy")}, row


def rows() -> list[Row]:
    """A row for every task."""
    found: list[tuple[str, str, str, tuple[Figures, Row]]] = [
        ("digits, accuracy, %", "small CNN", "%", _demo()),
        ("Fashion-MNIST 14 x 14, accuracy, %", "MLP of width 32", "%", _arena("fashion_small")),
        ("CIFAR-10 16 x 16, accuracy, %", "mixer of width 32", "%", _arena("cifar10_small")),
        ("CIFAR-10, fine-tuned 100 steps, accuracy, %", "ResNet-56", "%", _fine_tune("resnet56", 2e-4)),
        ("CamVid, mean IoU, %", "U-shaped, 1.2 M weights", "%", _sweep("camvid", "mec")),
        ("text8, bits per character (lower is better)", "Llama-like, 0.8 M", "", _sweep("text8", "mec_lloyd_max")),
    ]
    return [
        {"task": task, "network": network, "unit": unit, "figures": figures, "row": row}
        for task, network, unit, (figures, row) in found
    ]


def _shown(which: str) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        return mean_std(row["figures"][which], ".2f" if row["unit"] else ".3f", 100.0 if row["unit"] else 1.0)

    return show


COLUMNS: Columns = {
    "task": lambda r: r["task"],
    "network": lambda r: r["network"],
    "float, same recipe": _shown("float"),
    "MEC": _shown("mec"),
    "LSQ": _shown("lsq"),
    "n": lambda r: str(len(r["figures"]["mec"])),
    "hardware": lambda r: f"{r['row'].get('cores') or 2} {r['row'].get('device') or 'cpu'} cores",
    "commit": lambda r: r["row"]["versions"]["git"]["commit"][:7],
}
PATH: Path = RESULTS / "summary.md"


def text() -> str:
    """The table and what its columns mean."""
    return f"{table(COLUMNS, rows())}\n{NOTE}\n"
