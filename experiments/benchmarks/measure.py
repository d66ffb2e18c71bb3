"""Interleaved timing, memory of executables, and rows on disk that a stopped benchmark goes on from."""

import argparse
import functools
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.rows import Row, Rows
from experiments.runfolder import atomic_write_text

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"


def compiled(f: Callable, *args: Any) -> tuple[Callable[[], Any], float]:
    """(a call of the compiled f on args, its temporaries in bytes by the executable's own account)."""
    executable = jax.jit(f).lower(*args).compile()
    memory = executable.memory_analysis()
    temporaries = float(memory.temp_size_in_bytes) if memory is not None else float("nan")
    return lambda: jax.block_until_ready(executable(*args)), temporaries


def seconds(calls: Mapping[str, Callable[[], Any]], repeats: int, budget: float = 60.0) -> dict[str, float]:
    """Median seconds of each call, one after the other in every round, so that all see the same machine.

    Each round begins with another call, since the one that follows a call of large memory pays for its pages. A call
    that has used `budget` seconds is not repeated further.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        start = time.perf_counter()
        call()  # the first call warms caches, and counts only where it alone spends the budget
        if time.perf_counter() - start > budget:
            times[name].append(time.perf_counter() - start)
    names = list(calls)
    for r in range(repeats):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            if sum(times[name]) < budget:
                start = time.perf_counter()
                calls[name]()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


@functools.cache
def bandwidth() -> float:
    """Bytes a second that this device moves in y = x + 1 over 256 MiB, read and written."""
    x = jnp.zeros(2**26, jnp.float32)
    call, _ = compiled(lambda x: x + 1, x)
    return 2 * x.nbytes / seconds({"copy": call}, 5)["copy"]


class Results(Rows):
    """A benchmark's rows by their key, and those of this device as a table."""

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that have not been measured on this device."""
        done = {row["key"] for row in self.rows if row["device"] == self.device}
        return [key for key in keys if key not in done]

    def table(self, columns: Mapping[str, Callable[[Row], str]]) -> str:
        """The rows of this device as Markdown, also written as table.md."""
        rows = [row for row in self.rows if row["device"] == self.device]
        lines = [list(columns), ["---"] * len(columns), *([f(row) for f in columns.values()] for row in rows)]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
        atomic_write_text(self.folder / "table.md", f"Device: {self.device}, {os.cpu_count()} cores.\n\n{text}")
        return text


def run(
    name: str,
    doc: str | None,
    columns: Mapping[str, Callable[[Row], str]],
    pieces: Callable[[bool], Mapping[str, Callable[[], Iterable[Row]]]],
    arguments: list[str] | None = None,
) -> Results:
    """A benchmark's command line: the pieces that are not on disk are measured, and the table printed after each.

    pieces: whether tiny -> {key of a row that the piece gives: its measurement}.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a try; needs --out")
    parser.add_argument("--out", type=Path, help="folder for the results (default: experiments/results/benchmarks)")
    options = parser.parse_args(arguments)
    if options.tiny and options.out is None:
        parser.error("--tiny: give a folder by --out, so that a try does not stand among the results")
    results = Results((options.out or RESULTS) / name)
    for key, piece in pieces(options.tiny).items():
        if results.missing([key]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the rivals' dependencies warn of deprecations
                results.add(piece())
        print(results.table(columns), flush=True)
    return results
