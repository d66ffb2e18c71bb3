"""The progress bar that every command shows."""

import contextlib
from collections.abc import Callable, Iterator

from rich import progress as rich


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
    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        _Speed(batch),
    )
    lines: dict[str, rich.TaskID] = {}
    with rich.Progress(*columns) as display:

        def progress(what: str, done: int, of: int) -> None:
            if what not in lines:
                lines[what] = display.add_task(prefix + what, total=of, completed=done - 1)
            display.update(lines[what], completed=done)

        yield progress
