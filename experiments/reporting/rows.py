"""Rows of measurements in a folder, each with the machine and versions behind it; tables of them."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import jax

from experiments.runtime.run_folder import atomic_write_text, versions

RESULTS = Path(__file__).resolve().parents[1] / "results"
Row = dict[str, Any]
Columns = Mapping[str, Callable[[Row], str]]  # title -> what a row has there


def markdown(columns: Sequence[str], lines: Iterable[Sequence[str]], rule: str = "---") -> str:
    """A Markdown table of text; a line that is too short ends in empty cells."""
    padded = [columns, [rule] * len(columns), *([*line, *[""] * (len(columns) - len(line))] for line in lines)]
    return "".join("| " + " | ".join(line) + " |\n" for line in padded)


def table(columns: Columns, rows: Iterable[Row]) -> str:
    """A Markdown table of rows."""
    return markdown(list(columns), ([shown(row) for shown in columns.values()] for row in rows))


def of_lines(lines: Sequence[Mapping[str, str]], rule: str = "---") -> str:
    """A Markdown table of lines {column: text}; a column that all of them leave empty is left out."""
    columns = [name for name in dict.fromkeys(chain(*lines)) if any(line.get(name) for line in lines)]
    return markdown(columns, ([line.get(name, "") for name in columns] for line in lines), rule)


def section(title: str, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table of numbers under its title."""
    return f"### {title}\n\n" + markdown(columns, lines, "---:")


def stamp() -> Row:
    """The machine and versions."""
    return {"device": jax.devices()[0].device_kind, "cores": os.cpu_count(), "versions": versions()}


def packages(with_what: Mapping[str, Any]) -> str:
    """`versions` of packages as text."""
    return ", ".join(f"{k} {v}" for k, v in with_what.items() if isinstance(v, str) and k != "git")


class Rows:
    """The rows that a folder holds in rows.jsonl, and those that are added to them as they come."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "rows.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        self.rows: list[Row] = [json.loads(line) for line in lines]

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows of this machine; the file is written whole."""
        now = stamp()
        self.rows += [{**row, **now} for row in rows]
        self.write()

    def write(self) -> None:
        """Put the rows on disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))
