"""Run an arena:  python -m experiments.arena experiments/configs/arena_fashion.py [--folder PATH]

The file defines arena = Arena(...). Rows that are in the folder (default: experiments/results/arena/<name>) are kept,
so that an interrupted run goes on where it stopped.
"""

import argparse
import runpy
import sys
from pathlib import Path

from experiments.arena.protocol import Arena, run, table

RESULTS = Path(__file__).resolve().parents[1] / "results" / "arena"


def load(path: Path) -> Arena:
    """The `arena` that a config file defines."""
    if not path.is_file():
        raise FileNotFoundError(f"no arena file {path}; the ones that come along are experiments/configs/arena_*.py")
    arena = runpy.run_path(str(path)).get("arena")
    if not isinstance(arena, Arena):
        raise ValueError(f"{path} must define arena = Arena(...), it defines {arena!r}")
    return arena


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.arena", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args(arguments)
    try:
        arena = load(options.config)
        rows = run(arena, options.folder or RESULTS / options.config.stem.removeprefix("arena_"))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(arena, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
