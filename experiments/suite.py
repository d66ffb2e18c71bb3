"""All that waits for an accelerator, one after the other:  python -m experiments.suite [--minutes 5] [NAME ...]

Arenas of the real size (arena/cifar10_resnet20: all methods, ResNet-20 on CIFAR-10 at 1 to 4 bits; VGG-Small;
CIFAR-100), then the campaigns that no CPU trains in a day: segmentation, language, ImageNet, ADE20K. A NAME is the
folder of its results (none: all of them). Rows are written as they come and what is in the making is kept, so that the
same command goes on where it stopped (exit status 75): with --minutes, any short stretch of an accelerator's time moves
the tables on. What cannot run, for its data is not there, is said, with exit status 2 at the end, and stops nothing
else. Fields, such as --float_epochs=1, go to the campaigns; data sets of tensorflow-datasets are where TFDS_DATA_DIR
says.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from experiments import campaign
from experiments import config as configs
from experiments.arena import protocol
from experiments.arena.protocol import Arena, Clock, Paused
from experiments.arena.table import table
from experiments.reporting.collect import RESULTS
from experiments.runtime.divergence import Diverged
from experiments.runtime.interruption import EXIT_STATUS, Preempted

ARENAS = ("arena/cifar10_resnet20", "arena/cifar10_vgg_small", "arena/cifar100_resnet20")
ON_A_CPU = ("camvid", "text8")
NAMES = (*ARENAS, *(name for name in campaign.CAMPAIGNS if name not in ON_A_CPU))


def one(name: str, options: argparse.Namespace, overrides: Sequence[str], seconds: float) -> str:
    """Train what is missing of an arena or a campaign; its table."""
    if name in ARENAS:
        arena = configs.load_object(campaign.CONFIGS / f"{name}.py", "arena", Arena)
        return table(protocol.run(arena, options.results / name, clock=Clock(limit=seconds)))
    dataset = dataset_of(name)
    place = [f"--data_dir={options.data[dataset]}"] if dataset in options.data else []
    return campaign.run(name, options.seeds, options.runs, [*place, *overrides], seconds / 60, options.results)


def dataset_of(name: str) -> str:
    """What a campaign trains on; nothing for an arena, whose data sets are tensorflow-datasets'."""
    if name in ARENAS:
        return ""
    return configs.load(campaign.CONFIGS / f"{campaign.CAMPAIGNS[name].network}.py").dataset


def run(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """The exit status of all names, after each its table."""
    end, status = time.monotonic() + 60 * options.minutes, 0
    for name in options.names or NAMES:
        try:
            print(f"## {name}\n\n{one(name, options, overrides, end - time.monotonic())}", flush=True)
        except (Paused, Preempted):
            print(f"paused in {name}, with what is done kept; the same command goes on", file=sys.stderr)
            return EXIT_STATUS
        except Exception as error:  # whatever it is, the others can run
            if not isinstance(error, ValueError | OSError | Diverged):
                traceback.print_exc()
            print(f"error: {name}: {error}", file=sys.stderr, flush=True)
            status = 2
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.suite",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="pause after so long")
    parser.add_argument(
        "--data",
        type=_place,
        action="append",
        default=[],
        metavar="DATASET=PATH",
        help="where camvid, text8 or ade20k is; for each its own",
    )
    parser.add_argument("--seeds", type=int, default=3, help="of the campaigns")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the campaigns' runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options, overrides = parser.parse_known_intermixed_args(arguments)
    # argparse takes a field with a space in it, --size='(45, 60)', for a name.
    overrides += [name for name in options.names if name.startswith("--")]
    options.names = [name for name in options.names if not name.startswith("--")]
    options.data = dict(options.data)
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"{', '.join(unknown)}: not of {', '.join(NAMES)}")
    if unread := {*options.data} - {dataset_of(name) for name in NAMES}:
        parser.error(f"--data={', '.join(sorted(unread))}: no campaign reads it")
    campaigns = [name for name in options.names or NAMES if name not in ARENAS]
    if overrides and not campaigns:
        parser.error(f"{overrides[0]}: fields go to campaigns; an arena has its own in its file")
    try:
        for name in campaigns:
            campaign.planned(name, options.seeds, options.runs, overrides)
    except ValueError as error:
        parser.error(str(error))
    return run(options, overrides)


def _place(text: str) -> tuple[str, str]:
    dataset, sign, path = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not DATASET=PATH")
    return dataset, path


if __name__ == "__main__":
    sys.exit(main())
