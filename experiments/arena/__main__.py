"""Run an arena:  python -m experiments.arena experiments/configs/arena/cifar10_small.py [--minutes 5] [--folder DIR]

The file defines arena = Arena(...). Rows that are in the folder (default: experiments/results/arena/<name>) are kept,
and a row in the making is kept every minute, so that an interrupted run goes on where it stopped. With --minutes it
stops by itself after so long: any short stretch of a machine's time moves the table on.
"""

import sys

from experiments.arena.command import command
from experiments.arena.protocol import run
from experiments.arena.table import table


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    return command("experiments.arena", __doc__, run, table, arguments)


if __name__ == "__main__":
    sys.exit(main())
