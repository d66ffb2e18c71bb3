"""What every command shares: subcommands, how its help is laid out, how it ends, and the progress bar."""

import argparse
import ast
import contextlib
import dataclasses
import importlib
import importlib.util
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rich import progress as rich

from experiments.runtime.interruption import EXIT_STATUS, Interrupted

# Those that whoever gave the command can mend; a run that diverges is a FloatingPointError.
MENDABLE: tuple[type[Exception], ...] = (ValueError, OSError, FloatingPointError)


def main_of(module: ModuleType, arguments: Sequence[str]) -> int:
    """What a module's own command line comes to."""
    return module.main(arguments)


def dispatch(
    package: str,
    commands: Sequence[str],
    start: Callable[[ModuleType, Sequence[str]], int] = main_of,
    arguments: Sequence[str] | None = None,
) -> int:
    """`python -m PACKAGE COMMAND ARGUMENT ...`: the exit status of `start(module, [ARGUMENT, ...])`, the module being
    the package's of that name.

    arguments: None: the process's.
    """
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if command in commands:
        return start(importlib.import_module(f"{package}.{command}"), rest[:-1])
    print(f"usage: python -m {package} COMMAND ...; --help behind a command says the rest\n")
    for name in commands:
        print(f"{name:14} {_first_line(f'{package}.{name}')}")
    return 0 if command in ("-h", "--help") else 2


def _first_line(module: str) -> str:
    """What a module's docstring begins with, before its command; read without importing it."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].partition("  python -m")[0].rstrip(" :")


def parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """An empty parser of `python -m experiments.COMMAND`."""
    return argparse.ArgumentParser(
        prog=f"python -m experiments.{command}",
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def status(work: Callable[[], object], also: tuple[type[Exception], ...] = ()) -> int:
    """The exit status of `work`: 0; 2 at an error that its user can mend (`MENDABLE`, or `also`), or 75 where it was
    interrupted, both of which are said on stderr."""
    try:
        work()
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return EXIT_STATUS
    except MENDABLE + also as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def command_line(command: str, config: Any) -> str:
    """The command whose arguments are the fields of a data class that are not as by default."""
    changed = [f for f in dataclasses.fields(config) if getattr(config, f.name) != f.default]
    fields = [shlex.quote(f"--{f.name}={getattr(config, f.name)}") for f in changed]
    return " ".join([f"python -m experiments.{command}", *fields])


def with_fields(description: str | None, kind: type) -> str:
    """A command's description, and the fields of a data class that its arguments are."""
    return "\n".join([description or "", *(f"  --{f.name}={f.default}" for f in dataclasses.fields(kind))])


def installed(package: str | None) -> bool:
    """Whether a package is here; None is our own."""
    return package is None or importlib.util.find_spec(package) is not None


class _Speed(rich.ProgressColumn):
    """Examples in a second, `batch` a step; of a run that goes on, of the steps since."""

    def __init__(self, batch: int):
        super().__init__()
        self.batch = batch

    def render(self, task: rich.Task) -> rich.Text:
        speed = self.batch * (task.finished_speed or task.speed or 0.0)
        return rich.Text(f"{speed:,.0f}/s" if speed >= 100 else f"{speed:.3g}/s", style="progress.data.speed")


@contextlib.contextmanager
def bar(prefix: str = "", batch: int = 1) -> Iterator[Callable[[str, int, int], None]]:
    """Yields progress(what, done, of); each `what` has its line, with examples a second at `batch` a step."""
    text, count, elapsed = rich.TextColumn("{task.description}"), rich.MofNCompleteColumn(), rich.TimeElapsedColumn()
    lines: dict[str, rich.TaskID] = {}
    with rich.Progress(text, rich.BarColumn(), count, elapsed, _Speed(batch)) as display:

        def progress(what: str, done: int, of: int) -> None:
            if what not in lines:
                lines[what] = display.add_task(prefix + what, total=of, completed=done - 1)
            display.update(lines[what], completed=done)

        yield progress
