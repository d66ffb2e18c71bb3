"""The names of arrays in a run's file."""

from collections.abc import Mapping
from typing import Any


def by_path(dense: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a file by path, also of one that was written when parameters and state had a prefix each."""
    return {name.removeprefix("params/").removeprefix("state/"): array for name, array in dense.items()}
