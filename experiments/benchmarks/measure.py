"""Interleaved timing; memory of executables and of the process."""

import contextlib
import ctypes
import dataclasses
import functools
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

SLOW = 60.0  # seconds after which a call is not repeated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """A function compiled for its arguments, and what its first call told.

    call: runs it once more; first: seconds of the first call; temporaries: bytes by the executable's own account;
    resident: bytes by which the process's resident memory rose at most in a call, arguments excluded, results
    included (nan where Linux does not tell, or the work is done on an accelerator); read: what was read in its result.
    """

    call: Callable[[], None]
    first: float
    temporaries: float
    resident: float
    read: Any


def compiled(
    f: Callable,
    *args: Any,
    read: Callable[[Any], Any] = lambda result: None,
    feed: Callable[[Any], tuple[Any, ...]] | None = None,
) -> Compiled:
    """`f` compiled and called once.

    read: takes what is to be kept of its first result; feed: the next call's arguments from a call's result (None: each
    call has the same ones), as a training step goes on from the last.
    """
    executable = jax.jit(f).lower(*args).compile()
    memory = executable.memory_analysis()
    temporaries = float(memory.temp_size_in_bytes) if memory is not None else float("nan")
    start = time.perf_counter()
    result, resident = _resident_rise(lambda: executable(*args))
    first = time.perf_counter() - start
    kept, args = read(result), args if feed is None else feed(result)
    del result
    if first < SLOW:  # below some 32 MiB an array may lie in pages that the process had, unless glibc maps them all
        with _mapping(max(x.nbytes for x in jax.tree.leaves(args) if hasattr(x, "nbytes")) // 2):
            resident = _resident_rise(lambda: executable(*args))[1]

    def call() -> None:
        nonlocal args
        again = jax.block_until_ready(executable(*args))
        args = args if feed is None else feed(again)

    return Compiled(call=call, first=first, temporaries=temporaries, resident=resident, read=kept)


def _resident_rise(call: Callable[[], Any]) -> tuple[Any, float]:
    """The call's result, and the bytes by which the process's resident memory rose at most; nan where none tells."""
    if jax.default_backend() != "cpu" or not Path("/proc/self/clear_refs").exists():
        return jax.block_until_ready(call()), float("nan")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
    before = _resident("VmRSS")
    result = jax.block_until_ready(call())
    return result, _resident("VmHWM") - before


@contextlib.contextmanager
def _mapping(size: int) -> Iterator[None]:
    """glibc maps arrays above `size` bytes in pages of their own, given back when freed; then only the largest."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: None)
    trim, mmap = -1, -3
    mallopt(mmap, size)
    yield
    # Where glibc's own adjustment ends up after a while, so that timed calls use their pages again.
    mallopt(mmap, 2**25)
    mallopt(trim, 2**26)


def _resident(field: str) -> float:
    """A memory field of /proc/self/status in bytes: VmRSS is the present, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line for line in lines if line.startswith(field)).split()[1])


def seconds(work: Mapping[str, Compiled], repeats: int, budget: float = SLOW) -> dict[str, float]:
    """Median seconds of each call, one after the other in every round, so that all see the same machine.

    Each round begins with another call, since the one that follows a call of large memory pays for its pages. A call
    that has used `budget` seconds is not repeated further; the first call warms caches, and counts only where it alone
    spends the budget.
    """
    times: dict[str, list[float]] = {name: [c.first] if c.first > budget else [] for name, c in work.items()}
    names = list(work)
    for r in range(repeats):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            if sum(times[name]) < budget:
                start = time.perf_counter()
                work[name].call()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


@functools.cache
def bandwidth() -> float:
    """Bytes a second that this device moves in y = x + 1 over 256 MiB, read and written."""
    x = jnp.zeros(2**26, jnp.float32)
    return 2 * x.nbytes / seconds({"copy": compiled(lambda x: x + 1, x)}, 5)["copy"]
