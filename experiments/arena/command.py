"""The command line that the arena and its recipe share: a config file, --folder and --minutes."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import config as configs
from experiments.arena.protocol import Arena, Clock, Paused
from experiments.rows import Row

RESULTS = Path(__file__).resolve().parents[1] / "results" / "arena"


def command(
    module: str, description: str | None, run: Callable[..., list[Row]], show: Callable[[Arena, Sequence[Row]], str],
    arguments: list[str] | None,
) -> int:  # fmt: skip
    """Run `run` on the arena that the arguments name and print `show` of its rows; 2 where they are at fault."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a file of experiments/configs/arena/")
    parser.add_argument("--folder", type=Path, help="default: experiments/results/arena/<name of the config>")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="pause after so long")
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
    print(show(arena, rows))
    return 0
