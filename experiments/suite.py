"""All arenas of the real size, one after the other:  python -m experiments.suite [--minutes 5] [CONFIG ...]

ResNet-20 and VGG-Small on CIFAR-10, ResNet-20 on CIFAR-100, on whatever accelerator is there. Rows are written as they
come and a row in the making is kept every minute, so that the same command goes on where it stopped: with --minutes,
any short stretch of an accelerator's time moves the tables on.
"""

import sys
from pathlib import Path

from experiments.arena.command import command
from experiments.arena.protocol import run
from experiments.arena.table import table

CONFIGS = Path(__file__).resolve().parent / "configs" / "arena"
REAL = ("cifar10_resnet20", "cifar10_vgg_small", "cifar100_resnet20")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    configs = [CONFIGS / f"{name}.py" for name in REAL]
    return command("experiments.suite", __doc__, run, table, arguments, configs)


if __name__ == "__main__":
    sys.exit(main())
