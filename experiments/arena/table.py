"""The arena's rows as a table."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.reporting.rows import Row, markdown
from experiments.runtime.formatting import mean_std

COLUMNS = ("k", "method", "last epoch", "best epoch", "below the first", "recovered, %", "soft to hard", "chosen")


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, best first: % on the test images, mean +- std over seeds, of the packed network.

    The best epoch is the one best on the test images, as some papers report it. Below the first: the last epoch's
    points that the first method of this k is ahead, mean +- std of the differences at equal seeds, which start from one
    float network. Recovered % = (last - rounded) / (float - rounded), where rounded is the float network rounded to the
    nearest of `ste`'s levels, not trained. Soft to hard is what taking each weight's most probable level cost at the
    end of the soft phase.
    """
    lines = []
    for row in rows:
        if row["method"] == "float":
            lines.append(["", "float, as all start from", percent(row["float"])])
            trained = (percent(row["last"]), percent(row["best"]))
            lines.append(["", "float, trained on", *trained, "", "", "", numbers(row["chosen"])])
    for k in dict.fromkeys(row["k"] for row in rows if row["method"] != "float"):
        own = sorted((row for row in rows if row["k"] == k), key=lambda row: -np.mean(row["last"]))
        rounded = next((float(np.mean(row["untrained"])) for row in own if row["method"] == "ste"), None)
        lines += [_row(row, own[0], rounded) for row in own]
    return markdown(COLUMNS, lines)


def summary(rows: Sequence[Row]) -> str:
    """The last epoch alone as Markdown, a line for each method and a column for each k: % on the test images, mean +-
    std over seeds, of the packed network, by the mean over the columns; methods that lack one come last."""
    counts = sorted({row["k"] for row in rows if row["method"] != "float"})
    cells = {(row["method"], row["k"]): percent(row["last"]) for row in rows}
    means: dict[str, list[float]] = {}
    for row in rows:
        if row["method"] != "float":
            means.setdefault(row["method"], []).append(float(np.mean(row["last"])))
    # A method that cannot do the fewest levels would look better for it.
    whole = [name for name in means if len(means[name]) == len(counts)]
    order = sorted(whole, key=lambda name: -np.mean(means[name])) + [name for name in means if name not in whole]
    shown = [percent(row["last"]) for row in rows if row["method"] == "float"]
    lines = [["float, trained on", *[accuracy] * len(counts)] for accuracy in shown]
    lines += [[name, *(cells.get((name, k), "") for k in counts)] for name in order]
    return markdown(["method", *(f"{k} levels" for k in counts)], lines)


def _row(row: Row, first: Row, rounded: float | None) -> list[str]:
    last, start = np.mean(row["last"]), np.mean(row["float"])
    behind = "" if row is first else percent(np.subtract(first["last"], row["last"]))
    recovered = "" if rounded is None else f"{100 * (last - rounded) / (start - rounded):.1f}"
    gap = f"{100 * (np.mean(row['soft_end']) - np.mean(row['soft_end_hard'])):.2f}" if "soft_end" in row else ""
    accuracies = (percent(row["last"]), percent(row["best"]))
    return [str(row["k"]), row["method"], *accuracies, behind, recovered, gap, numbers(row["chosen"])]


def numbers(chosen: Mapping[str, float]) -> str:
    """Names and values."""
    return ", ".join(f"{name} {value:g}" for name, value in chosen.items())


def percent(values: Sequence[float] | np.ndarray) -> str:
    """Shares as per cent, mean +- std where there are several."""
    return mean_std(values, factor=100)
