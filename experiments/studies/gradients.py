"""Which gradient through the transport is right, how fast is it, and what memory does it take?

Of L = <c, sin(4 w^)>, w^ the soft weights of Gaussian w [n] at the levels q of equal-mass cells, c random: relative
errors |d - d0| / |d0| of d = dL/dw and dL/dq against d0, float64 central differences (step 1e-6) of a float64 Newton
solution; time of the compiled value and gradient; XLA's temporaries for larger groups. The ways (`gradient_methods`):

    implicit (ours)   `soft_assign`: K u = dL/dg solved once, two passes over the weights
    ott-jax implicit  its ImplicitDiff, threshold 1e-6: lineax's SVD, or its default linear solver
    unrolled T        through T iterations of `transport.Sinkhorn` from no potentials
    one step          exact potentials g*, stopped; one iteration of Sinkhorn from there, differentiated
    stop-gradient     dw^/dw and dw^/dq at fixed g*
    mirror (ours)     dL/dw = dL/dw^ (meant: a descent direction for w, not the gradient), dL/dq exact
    straight-through  hard weights forward, dL/dw = dL/dw^: the gradient of another function

    python -m experiments.studies gradients [--field=value ...] [--out DIR]       # 4 minutes on 2 CPU cores

What was found is in docs/results/studies.md.
"""

import dataclasses
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from experiments.data.colours import CYCLE
from experiments.reporting.plots import caption, panels, save
from experiments.reporting.rows import section
from experiments.runtime.formatting import percent, significant
from experiments.studies.gradient_methods import Loss, methods
from mecq_jax import quantizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes; `large` groups, for memory and time, are at `large_epsilon`. At k = 4 up to 8192 weights are one block.

    A method that needs more than `memory_limit` MB of temporaries there is compiled but not run.
    """

    sizes: tuple[int, ...] = (256, 1024)
    k: int = 4
    epsilons: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
    unrolled: tuple[int, ...] = (10, 100, 1000)
    large: tuple[int, ...] = (8192, 65536)
    large_epsilon: float = 0.1
    memory_limit: float = 2000.0
    repeats: int = 7
    seed: int = 0


def problem(n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(w, q, c): Gaussian weights, levels at the means of equal-mass cells, the loss's cotangent; float32 numbers."""
    rng = np.random.default_rng(seed)
    w, c = rng.normal(size=(2, n)).astype(np.float32)
    return w, np.asarray(quantizers.quantile(jnp.asarray(w)[None], k)[0]), c


def potentials64(w, q, epsilon, g):
    """float64 potentials from `g` by damped Newton, masses to 1e-14, and their p."""
    b, cost = 1 / len(q), (w[:, None] - q[None]) ** 2
    for _ in range(200):
        p = softmax((g[None] - cost) / epsilon, axis=1)
        m = p.mean(axis=0)
        r = b - m
        # The ones fix the constant that g is free up to.
        step = epsilon * np.linalg.solve(np.diag(m) - p.T @ p / len(w) + 1.0, r - r.mean())
        if np.abs(r).max() < 1e-14 or np.abs(step).max() < 1e-15:
            break
        g = g + step * min(1.0, 2 * epsilon / np.abs(step).max())
    return g, p


def differences(w, q, c, epsilon, h: float) -> tuple[np.ndarray, np.ndarray]:
    """dL/dw and dL/dq of L = <c, sin(4 soft)> by float64 central differences of step `h`."""
    w, q, c = (x.astype(np.float64) for x in (w, q, c))
    g = np.zeros(len(q))
    for e in np.geomspace(max(2.0, epsilon), epsilon, 40):  # a way down that Newton can follow
        g, _ = potentials64(w, q, e, g)

    def loss(w, q):
        return c @ np.sin(4 * (potentials64(w, q, epsilon, g)[1] @ q))

    def each(x, f):
        basis = h * np.eye(len(x))
        return np.array([(f(x + d) - f(x - d)) / (2 * h) for d in basis])

    return each(w, lambda w: loss(w, q)), each(q, lambda q: loss(w, q))


def attempt(make: Callable[..., Loss], w, q, c, epsilon: float, repeats: int, limit: float = np.inf) -> dict[str, Any]:
    """Gradients, milliseconds and MB of temporaries of value-and-gradient; or `failed`, the name of what was raised.

    Above `limit` MB it is not run.
    """
    w, q, c = map(jnp.asarray, (w, q, c))
    b = jnp.full(q.shape[0], 1 / q.shape[0], jnp.float32)
    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)  # a failure goes to the table, not the screen
    out: dict[str, Any] = {}
    try:
        # epsilon is an argument: a constant would be folded into the program for minutes.
        function = jax.jit(lambda w, q, c, e, b: jax.value_and_grad(make(c, e, b), (0, 1))(w, q))
        inputs = (w, q, c, jnp.float32(epsilon), b)
        compiled = function.lower(*inputs).compile()
        memory: Any = compiled.memory_analysis()
        out["megabytes"] = memory.temp_size_in_bytes / 1e6
        if out["megabytes"] > limit:
            return out
        times = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            _, gradients = jax.block_until_ready(compiled(*inputs))
            times.append(time.perf_counter() - start)
        out["milliseconds"] = 1e3 * float(np.median(times[1:]))
    except Exception as error:  # whatever a library raises here is a result of this study
        return {**out, "failed": f"raises {type(error).__name__}", "message": said(error)}
    out["gradients"] = [np.asarray(x, np.float64) for x in gradients]
    return out


def said(error: Exception) -> str:
    """The error's own words: the first line, or, where that heads a traceback of a callback, the last 'XError: ...'."""
    lines = str(error).strip().splitlines() or [""]
    inner = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
    return (inner[-1] if inner else lines[0])[:200]


def relative(got: np.ndarray, expected: np.ndarray) -> float | str:
    """|got - expected| / |expected|; 'NaN' if a number is not finite."""
    if not np.isfinite(got).all():
        return "NaN"
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def accuracy(config: Config, n: int) -> dict[str, Any]:
    """{method: {epsilon: errors in w and q, milliseconds}} for groups of n weights; and the reference's own error."""
    w, q, c = problem(n, config.k, config.seed)
    out: dict[str, Any] = {name: {} for name in ("reference", *methods(config.unrolled))}
    for relative_epsilon in config.epsilons:
        epsilon = float(np.float32(relative_epsilon * w.var()))
        expected = differences(w, q, c, epsilon, 1e-6)
        coarser = differences(w, q, c, epsilon, 4e-6)
        key = f"{relative_epsilon:g}"
        out["reference"][key] = dict(zip("wq", map(relative, coarser, expected), strict=True))
        for name, make in methods(config.unrolled).items():
            found = attempt(make, w, q, c, epsilon, config.repeats)
            if "failed" in found:
                out[name][key] = {"w": found["failed"], "q": found["failed"], "message": found["message"]}
                continue
            errors = dict(zip("wq", map(relative, found["gradients"], expected), strict=True))
            out[name][key] = {**errors, "milliseconds": found["milliseconds"]}
    return out


def cost(config: Config, n: int) -> dict[str, Any]:
    """{method: temporaries and time} for one group of n weights."""
    w, q, c = problem(n, config.k, config.seed)
    epsilon, repeats = float(config.large_epsilon * w.var()), min(config.repeats, 3)
    out = {}
    for name, make in methods(config.unrolled).items():
        found = attempt(make, w, q, c, epsilon, repeats, config.memory_limit)
        out[name] = {key: value for key, value in found.items() if key != "gradients"}
    return out


def compute(config: Config) -> dict[str, Any]:
    """All numbers."""
    return {
        "epsilons": [f"{e:g}" for e in config.epsilons],
        "sizes": {str(n): accuracy(config, n) for n in config.sizes},
        "large_epsilon": config.large_epsilon,
        "cost": {str(n): cost(config, n) for n in config.large},
    }


def tables(data: dict[str, Any]) -> list[str]:
    """Errors in w, in q, and times, a row for each method and a column for each epsilon; then cost at a large n."""
    found = []
    for n, size in data["sizes"].items():
        for what, title, show in (
            ("w", "relative error of dL/dw, %", percent),
            ("q", "relative error of dL/dq, %", percent),
            ("milliseconds", "value and gradient, ms", significant),
        ):
            rows = [[name, *(show(by[e].get(what)) for e in data["epsilons"])] for name, by in size.items()]
            rows = [row for row in rows if any(row[1:])]
            found.append(section(f"n = {n}: {title}", ["method", *(f"{e} var" for e in data["epsilons"])], rows))
    for n, methods_ in data["cost"].items():
        rows = [
            [name, significant(x.get("megabytes"), 3), x.get("failed") or significant(x.get("milliseconds", "not run"))]
            for name, x in methods_.items()
        ]
        title = f"n = {n}, epsilon = {data['large_epsilon']:g} var: value and gradient"
        found.append(section(title, ["method", "temporaries, MB", "ms"], rows))
    return found


def draw(path: Path, data: dict[str, Any]) -> None:
    """Errors in w and q against epsilon at the largest n; temporaries against time at the least of the large n."""
    n, size = list(data["sizes"].items())[-1]
    large, costs = next(iter(data["cost"].items()))
    figure, axes = panels(1, 3, f"Gradients through the transport, n = {n}", width=16, height=4.8)
    epsilons = [float(e) for e in data["epsilons"]]
    names = [name for name in size if name != "reference"]
    looks = {name: (CYCLE[i % len(CYCLE)], ("-", "--")[i // len(CYCLE)]) for i, name in enumerate(names)}
    for axis, what in zip(axes, "wq", strict=False):
        for name, (colour, style) in looks.items():
            values = [size[name][e][what] for e in data["epsilons"]]
            y = [np.nan if isinstance(v, str) else max(v, 1e-8) for v in values]
            axis.plot(epsilons, y, style, color=colour, marker="o", markersize=3, label=name)
        axis.set_xscale("log")
        axis.set_yscale("log")
        caption(axis, f"dL/d{what}", "epsilon / var(w)", "relative error (failures not drawn)")
    axes[0].set_ylim(top=1e3 * axes[0].get_ylim()[1])  # room for the legend
    axes[0].legend(frameon=False, fontsize=7, ncols=3, loc="upper right")
    for name, (colour, _) in looks.items():
        found = costs.get(name, {})
        if "milliseconds" in found:
            axes[2].plot(found["milliseconds"], found["megabytes"], "o", color=colour)
            axes[2].annotate(
                name, (found["milliseconds"], found["megabytes"]), xytext=(4, 3), fontsize=7, textcoords="offset points"
            )
    axes[2].set_xscale("log")
    axes[2].set_yscale("log")
    axes[2].margins(x=0.25)
    caption(axes[2], f"n = {large}, epsilon = {data['large_epsilon']:g} var", "time (ms)", "temporaries (MB)")
    save(figure, path)
