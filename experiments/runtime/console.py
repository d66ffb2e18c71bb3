"""How a command ends."""

import sys
from collections.abc import Callable


def of(work: Callable[[], object], errors: tuple[type[Exception], ...] = (ValueError, OSError)) -> int:
    """The exit status of `work`: 0, or 2 at one of the errors that its user can mend, which is said on stderr."""
    try:
        work()
    except errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
