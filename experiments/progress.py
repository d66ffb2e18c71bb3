"""The progress bar that every command shows."""

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


@contextlib.contextmanager
def bar(prefix: str = "") -> Iterator[Callable[[str, int, int], None]]:
    """Yields progress(what, done, of); each `what` has its line."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    lines: dict[str, TaskID] = {}
    with Progress(*columns) as display:

        def progress(what: str, done: int, of: int) -> None:
            if what not in lines:
                lines[what] = display.add_task(prefix + what, total=of)
            display.update(lines[what], completed=done)

        yield progress
