"""Interleaved timing, memory of executables, and rows on disk that a stopped benchmark goes on from."""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from experiments.runfolder import atomic_write_text, versions

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
Row = dict[str, Any]


def compiled(f: Callable, *args: Any) -> tuple[Callable[[], Any], float]:
    """(a call of the compiled f on args, its temporaries in bytes by the executable's own account)."""
    executable = jax.jit(f).lower(*args).compile()
    memory = executable.memory_analysis()
    temporaries = float(memory.temp_size_in_bytes) if memory is not None else float("nan")
    return lambda: jax.block_until_ready(executable(*args)), temporaries


def seconds(calls: Mapping[str, Callable[[], Any]], repeats: int, budget: float = 60.0) -> dict[str, float]:
    """Median seconds of each call, one after the other in every round, so that all see the same machine.

    A call that has used `budget` seconds is not repeated further.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        start = time.perf_counter()
        call()  # the first call warms caches, and counts only where it alone spends the budget
        if time.perf_counter() - start > budget:
            times[name].append(time.perf_counter() - start)
    for _ in range(repeats):
        for name, call in calls.items():
            if sum(times[name]) < budget:
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def bandwidth() -> float:
    """Bytes a second that this device moves in y = x + 1 over 256 MiB, read and written."""
    import jax.numpy as jnp

    x = jnp.zeros(2**26, jnp.float32)
    call, _ = compiled(lambda x: x + 1, x)
    return 2 * x.nbytes / seconds({"copy": call}, 5)["copy"]


class Results:
    """rows.jsonl in a folder: rows by their key, kept as they come."""

    def __init__(self, name: str, root: Path | None = None):
        self.folder = (root or RESULTS) / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "rows.jsonl"
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        self.rows: list[Row] = [json.loads(line) for line in lines]
        self.device = jax.devices()[0].device_kind

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that have not been measured on this device."""
        done = {row["key"] for row in self.rows if row["device"] == self.device}
        return [key for key in keys if key not in done]

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows; the file is written whole."""
        stamp = {"device": self.device, "cores": os.cpu_count(), "versions": versions()}
        self.rows += [{**row, **stamp} for row in rows]
        atomic_write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def table(self, columns: Mapping[str, Callable[[Row], str]]) -> str:
        """The rows of this device as Markdown, also written as table.md."""
        rows = [row for row in self.rows if row["device"] == self.device]
        lines = [list(columns), ["---"] * len(columns), *([f(row) for f in columns.values()] for row in rows)]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
        atomic_write_text(self.folder / "table.md", f"Device: {self.device}, {os.cpu_count()} cores.\n\n{text}")
        return text
