"""Run an arena:  python -m experiments.arena experiments/configs/arena/cifar10_small.py [--minutes 5] [--folder PATH]

The file defines arena = Arena(...). Rows that are in the folder (default: experiments/results/arena/<name>) are kept,
and a row in the making is kept every minute, so that an interrupted run goes on where it stopped. With --minutes it
stops by itself after so long: any short stretch of a machine's time moves the table on.
"""

import argparse
import sys
from pathlib import Path

from experiments import config as configs
from experiments.arena.protocol import Arena, Clock, Paused, run, table

RESULTS = Path(__file__).resolve().parents[1] / "results" / "arena"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.arena", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    options = parser.parse_args(arguments)
    try:
        arena = configs.load_object(options.config, "arena", Arena)
        folder = options.folder or RESULTS / options.config.stem
        rows = run(arena, folder, clock=Clock(limit=60 * options.minutes))
    except Paused as paused:
        print(paused)
        return 0
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(arena, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
