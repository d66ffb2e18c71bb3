"""Figures of a run, drawn with Matplotlib's objects on the Agg canvas: no display, no global state."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.data.colours import BLUE, CYCLE, ORANGE, RED, SKY

_BINS = 120


def levels_over_training(
    path: str | os.PathLike,
    steps: np.ndarray,
    levels: np.ndarray,
    occupancy: np.ndarray,
    weights_before: np.ndarray,
    weights_after: np.ndarray,
    title: str,
) -> None:
    """Each level's way through training, the share of weights at it, and the weights at start and end.

    path: PNG file to write.
    steps: [T] train steps.
    levels, occupancy: [T, k] the k levels of one group at each of the steps, and the share of its weights at each.
    weights_before, weights_after: [n] the group's weights.
    title: of the whole figure.
    """
    steps, levels, occupancy = np.asarray(steps), np.asarray(levels), np.asarray(occupancy)
    for name, value in (("levels", levels), ("occupancy", occupancy)):
        if value.ndim != 2 or value.shape[0] != len(steps):
            raise ValueError(f"{name} has shape {value.shape}, must be [{len(steps)}, k]; give a row per step")
    figure, (left, middle, right) = panels(1, 3, title, width=13, height=4)
    colours = _level_colours(levels.shape[1])
    for axis, lines in ((left, levels), (middle, 100 * occupancy)):
        for line, colour in zip(lines.T, colours, strict=True):
            axis.plot(steps, line, color=colour, linewidth=1.6)
    caption(left, "Levels", "train step", "level (weight units)")
    caption(middle, "Occupancy", "train step", "weights at the level (%)")
    middle.margins(y=0.2)
    middle.set_ylim(bottom=0)
    both = np.concatenate([np.ravel(weights_before), np.ravel(weights_after), levels[-1]])
    spread = (float(both.min()), float(both.max()))
    right.hist(np.ravel(weights_before), bins=_BINS, range=spread, color=SKY, alpha=0.55, label="start")
    right.hist(np.ravel(weights_after), bins=_BINS, range=spread, color=ORANGE, alpha=0.65, label="end")
    for index, (level, colour) in enumerate(zip(levels[-1], colours, strict=True)):
        right.axvline(level, color=colour, linewidth=1.3, linestyle="--", label="final levels" if index == 0 else None)
    right.set_yscale("log")
    caption(right, "Weights", "weight", "weights per bin (count, log scale)")
    right.legend(frameon=False)
    save(figure, path)


def entropy_and_temperature(
    path: str | os.PathLike, steps: np.ndarray, entropy: np.ndarray, temperature: np.ndarray, marks: Mapping[str, int]
) -> None:
    """The assignments' entropy (left axis) and the temperature (right axis, logarithmic) over training.

    path: PNG file to write.
    steps, entropy, temperature: [T] each; entropy in nats; a temperature of 0 is not drawn.
    marks: name of a phase -> the train step at which it begins, drawn as vertical lines.
    """
    figure, (axis,) = panels(1, 1, "Entropy of the assignments and temperature", width=8, height=4.6)
    temperature = np.asarray(temperature, float)
    lines = axis.plot(steps, entropy, color=BLUE, label="entropy")
    caption(axis, "", "train step", "mean entropy per weight (nats)")
    axis.yaxis.label.set_color(BLUE)
    twin = axis.twinx()
    positive = np.where(temperature > 0, temperature, np.nan)
    lines += twin.plot(steps, positive, color=RED, linestyle="--", label="temperature")
    if np.any(temperature > 0):
        twin.set_yscale("log")
    twin.set_ylabel("temperature, epsilon / var(w) (log scale)", color=RED)
    for name, step in marks.items():
        axis.axvline(step, color="0.4", linestyle=":", linewidth=1.2)
        place: dict[str, Any] = {
            "xycoords": ("data", "axes fraction"),
            "textcoords": "offset points",
            "xytext": (3, -4),
        }
        axis.annotate(name, (step, 1.0), **place, fontsize=8, rotation=90, va="top", ha="left", color="0.3")
    axis.legend(handles=lines, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2)
    save(figure, path)


def assignment_curves(
    path: str | os.PathLike, curves: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]], title: str
) -> None:
    """A column of two panels per curve: each level's probability, and the soft weight, against the weight.

    path: PNG file to write.
    curves: (label, w_grid [m], p [m, k], soft [m]) each, usually one per epsilon.
    title: of the whole figure.
    """
    if not curves:
        raise ValueError("curves has 0 entries, must have at least 1; pass (label, w_grid, p, soft) for each")
    columns = len(curves)
    figure, axes = panels(2, columns, title, width=max(5.0, 3.4 * columns), height=6)
    for column, (label, grid, p, soft) in enumerate(curves):
        top, bottom = axes[column], axes[columns + column]
        p = np.asarray(p)
        for j, colour in enumerate(_level_colours(p.shape[1])):
            top.plot(grid, p[:, j], color=colour, linewidth=1.6)
        top.set_ylim(-0.03, 1.03)
        caption(top, label, "weight w", "probability $p_j(w)$" if column == 0 else "")
        bottom.plot(grid, grid, color="0.6", linestyle="--", linewidth=1, label="w")
        bottom.plot(grid, soft, color=BLUE, linewidth=1.8, label="soft weight")
        caption(bottom, "", "weight w", "soft weight ŵ(w)" if column == 0 else "")
    axes[columns].legend(frameon=False)
    save(figure, path)


def accuracy(
    path: str | os.PathLike, series: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str = "Test accuracy"
) -> None:
    """Test accuracy over training, a line per run.

    path: PNG file to write.
    series: name -> (steps [T], accuracy [T] as fractions from 0 to 1).
    title: of the figure.
    """
    figure, (axis,) = panels(1, 1, title, width=7.5, height=4.6)
    for index, (name, (x, y)) in enumerate(series.items()):
        marker = "o" if len(x) < 30 else None
        look: dict[str, Any] = {"color": CYCLE[index % len(CYCLE)], "marker": marker, "markersize": 3.5}
        axis.plot(x, 100 * np.asarray(y, float), **look, label=name)
    caption(axis, "", "train step", "test accuracy (%)")
    if series:
        axis.legend(frameon=False)
    save(figure, path)


class Panel(NamedTuple):
    """What `size_against_score` draws of one task: figures of networks by method and bits, and the bytes that these
    bits take; `floating` is the float network's figure."""

    title: str
    measure: str
    scores: Mapping[str, Mapping[float, float]]
    sizes: Mapping[float, float]
    floating: float


def size_against_score(path: str | os.PathLike, tasks: Sequence[Panel]) -> None:
    """The figure that networks reach against the bits of a weight and the bytes of the whole, a line a method.

    path: PNG file to write.
    tasks: one for each panel. A method looks the same in all; the first method of all is drawn above the others.
    """
    columns = min(2, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, axes = panels(rows, columns, "", width=4.2 * columns + 1.8, height=3.9 * rows)
    methods = list(dict.fromkeys(name for task in tasks for name in task.scores))
    drawn = {}
    for empty in axes[len(tasks) :]:
        empty.set_axis_off()
    for axis, task in zip(axes, tasks, strict=False):
        for name, scores in task.scores.items():
            i = methods.index(name)
            style, marker = (("-", "o"), ("--", "s"), (":", "^"))[i // len(CYCLE) % 3]
            look: dict[str, Any] = {"color": CYCLE[i % len(CYCLE)], "linestyle": style, "marker": marker}
            look |= {"markersize": 4, "linewidth": 1.2 if i else 2.6, "zorder": 2 if i else 3}
            (drawn[name],) = axis.plot(*zip(*sorted(scores.items()), strict=True), **look, label=name)
        drawn["float"] = axis.axhline(task.floating, color="0.4", linestyle=(0, (6, 3)), linewidth=1.2)
        ticks = sorted(task.sizes)
        axis.set_xticks(ticks, [f"{x:.3g} bit\n{task.sizes[x] / 1000:,.4g} kB" for x in ticks])
        axis.set_xlim(ticks[0] - 0.4, ticks[-1] + 0.4)
        caption(axis, task.title, "bits of a quantized weight, size of all weights", task.measure)
    axes[columns - 1].legend(drawn.values(), drawn, frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, path)


def panels(rows: int, columns: int, title: str, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of width x height inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), dpi=130)
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def caption(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=11)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(True, alpha=0.25)


def _level_colours(count: int) -> list[tuple[float, ...]]:
    """A colour per level, lowest to highest, the same in every figure with as many levels."""
    return [tuple(c) for c in matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, count))]


def save(figure: Figure, path: str | os.PathLike) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, format="png")
