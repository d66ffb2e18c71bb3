"""A table that is measured piece by piece, its rows kept as they come: what benchmarks and checks have in common.

A benchmark is a module with COLUMNS, of its table, and pieces(tiny) -> {key of a row that the piece gives: the piece}.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import jax

from experiments.reporting.rows import RESULTS, Columns, Row, Rows, table
from experiments.runtime import console
from experiments.runtime.run_folder import atomic_write_text

Pieces = Mapping[str, Callable[[], Iterable[Row]]]


def measured(columns: Columns, pieces: Pieces, folder: Path) -> list[Row]:
    """The rows of this device; what is not in the folder is measured, and the table printed after each piece."""
    kept, device = Rows(folder), jax.devices()[0].device_kind

    def of_device() -> list[Row]:
        return [row for row in kept.rows if row["device"] == device]

    for key, piece in pieces.items():
        if key not in {row["key"] for row in of_device()}:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the baselines' dependencies warn of deprecations
                kept.add(piece())
        text = table(columns, of_device())
        atomic_write_text(folder / "table.md", f"Device: {device}, {os.cpu_count()} cores.\n\n{text}")
        print(text, flush=True)
    return of_device()


def main(benchmark: ModuleType, arguments: Sequence[str], folder: Path | None = None) -> int:
    """The command line of a benchmark, whose results are in `folder` (None: experiments/results/benchmarks/NAME)."""
    _, *command = benchmark.__name__.split(".")
    folder = folder or RESULTS.joinpath(*command)
    parser = console.parser(" ".join(command), benchmark.__doc__)
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a try; needs --out")
    parser.add_argument("--out", type=Path, help=f"the results go to DIR/{folder.name} (default: {folder.parent})")
    options = parser.parse_args(arguments)
    if options.tiny and options.out is None:
        parser.error("--tiny: give a folder by --out, so that a try does not stand among the results")
    out = (options.out or folder.parent) / folder.name
    return console.status(lambda: measured(benchmark.COLUMNS, benchmark.pieces(options.tiny), out))
