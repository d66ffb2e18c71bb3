"""The progress bar that every command shows."""

import contextlib
from collections.abc import Callable, Iterator

from rich import progress as rich


class _Speed(rich.ProgressColumn):
    """How many are done in a second."""

    def render(self, task: rich.Task) -> rich.Text:
        speed = task.finished_speed or task.speed
        return rich.Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")


@contextlib.contextmanager
def bar(prefix: str = "") -> Iterator[Callable[[str, int, int], None]]:
    """Yields progress(what, done, of); each `what` has its line."""
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(),
               rich.TimeElapsedColumn(), _Speed())  # fmt: skip
    lines: dict[str, rich.TaskID] = {}
    with rich.Progress(*columns) as display:

        def progress(what: str, done: int, of: int) -> None:
            if what not in lines:
                lines[what] = display.add_task(prefix + what, total=of)
            display.update(lines[what], completed=done)

        yield progress
