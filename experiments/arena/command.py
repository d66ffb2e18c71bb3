"""The command line that the arena and its recipe share: config files, --folder and --minutes."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import config as configs
from experiments.arena.protocol import Arena, Clock, Paused
from experiments.reporting.rows import Row
from experiments.runtime.interruption import EXIT_STATUS

RESULTS = Path(__file__).resolve().parents[1] / "results" / "arena"


def command(
    module: str,
    description: str | None,
    run: Callable[..., list[Row]],
    show: Callable[[Sequence[Row]], str],
    arguments: list[str] | None,
) -> int:
    """Run `run` on the arenas that the arguments name and print `show` of their rows; 75 if paused, 2 if at fault."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, nargs="+", help="files of experiments/configs/arena/")
    parser.add_argument(
        "--folder",
        type=Path,
        help="results go to a folder in it, named as the file is (default: experiments/results/arena)",
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="pause after so long")
    options = parser.parse_args(arguments)
    clock = Clock(limit=60 * options.minutes)
    try:
        for path in options.config:
            arena = configs.load_object(path, "arena", Arena)
            print(show(run(arena, (options.folder or RESULTS) / path.stem, clock=clock)))
    except Paused as paused:
        print(paused, file=sys.stderr)
        return EXIT_STATUS
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
