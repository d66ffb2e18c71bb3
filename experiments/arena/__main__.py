"""Run an arena:  python -m experiments.arena experiments/configs/arena/cifar10_small.py [--minutes 5] [--folder DIR]

The file defines arena = Arena(...). Rows that are in the folder (default: experiments/results/arena/<name>) are kept,
and a row in the making is kept every minute, so that an interrupted run goes on where it stopped. With --minutes it
stops by itself after so long (exit status 75): any short stretch of a machine's time moves the table on.

--ablations   the method's recipe, one change at a time, in its place: see ablations.py
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import config as configs
from experiments.arena import ablations, protocol
from experiments.arena.protocol import Arena, Clock
from experiments.arena.table import table
from experiments.reporting.rows import RESULTS
from experiments.runtime import console


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = console.parser("arena", __doc__)
    parser.add_argument("config", type=Path, nargs="+", help="files of experiments/configs/arena/")
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--folder", type=Path, default=RESULTS / "arena", help="of the files' folders")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    options = parser.parse_args(arguments)
    run, show = (ablations.run, ablations.table) if options.ablations else (protocol.run, table)
    clock = Clock(limit=60 * options.minutes)

    def work() -> None:
        for path in options.config:
            arena = configs.load_object(path, "arena", Arena)
            print(show(run(arena, options.folder / path.stem, clock=clock)))

    return console.status(work)


if __name__ == "__main__":
    sys.exit(main())
