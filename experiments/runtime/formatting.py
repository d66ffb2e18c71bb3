"""Numbers as text."""

from collections.abc import Sequence

import numpy as np


def mean_std(values: Sequence[float] | np.ndarray, spec: str = ".2f", factor: float = 1.0) -> str:
    """The mean of `factor` times the values and, of several, +- their sample standard deviation.

    spec: format of the mean; of the deviation too, without its sign.
    """
    scaled = factor * np.asarray(values, np.float64)
    mean = format(scaled.mean(), spec)
    return mean if scaled.size == 1 else f"{mean} ± {scaled.std(ddof=1):{spec.removeprefix('+')}}"


def significant(value: float | str | None, digits: int = 2) -> str:
    """`value` with so many significant digits; text (the name of a failure) as it is."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        decimals = 0 if value == 0 else max(digits - 1 - int(f"{value:e}".split("e")[1]), 0)
        return f"{value:.{decimals}f}"
    return f"{value:.{digits - 1}e}"


def percent(value: float | str | None) -> str:
    """A share as per cent."""
    return value if isinstance(value, str) else significant(None if value is None else 100 * value)
