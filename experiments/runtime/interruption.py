"""Interruption: a scheduler's SIGTERM, or a time limit, becomes a checkpoint and a clean end."""

import contextlib
import signal
from collections.abc import Callable, Iterator

# sysexits.h: temporary failure, try again. A process that SIGTERM ended without a checkpoint has 143 in a shell.
EXIT_STATUS = 75


class Interrupted(Exception):
    """Work that was asked to stop, and has; the message says from where it goes on."""


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Yields stop(): whether SIGTERM has come. Only in the main thread, where Python delivers signals."""
    asked = []
    before = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)
