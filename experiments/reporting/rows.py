"""Rows of measurements in a folder: rows.jsonl, kept as they come, each with the machine and versions behind it."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.runtime.run_folder import atomic_write_text, versions

Row = dict[str, Any]


def markdown(columns: Sequence[str], lines: Iterable[Sequence[str]], rule: str = "---") -> str:
    """A Markdown table of text; a line that is too short ends in empty cells."""
    padded = [columns, [rule] * len(columns), *([*line, *[""] * (len(columns) - len(line))] for line in lines)]
    return "".join("| " + " | ".join(line) + " |\n" for line in padded)


class Rows:
    """The rows on disk, and those that are added to them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "rows.jsonl"
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        self.rows: list[Row] = [json.loads(line) for line in lines]
        self.device = jax.devices()[0].device_kind

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows; the file is written whole."""
        stamp = {"device": self.device, "cores": os.cpu_count(), "versions": versions()}
        self.rows += [{**row, **stamp} for row in rows]
        atomic_write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))
