"""How many iterations of Sinkhorn, or passes of Newton, does the assignment need?

The potentials g of the transport are found by iteration; what does it cost to stop early? For Gaussian weights w [n],
levels q at the means of k equal-mass cells and uniform masses b, against the exact solution g* (Newton until float32
gives no more, a marginal error of 1e-6 to 7e-6), at each epsilon (relative to var(w)) and number of iterations:

    k max_j |b_j - m_j(g)|                       marginal error
    rms_i(w^_i(g) - w^_i(g*)) / std(w)           soft weights
    share of i with code_i(g) != code_i(g*)      hard codes
    |d(g) - d(g*)| / |d(g*)|,  d = dL/dw         gradient of L = <c, w^>, c random, by the implicit formula at g

Sinkhorn starts from zero potentials, from the library's cold start (`starts.best`: the better of the limits epsilon to
0 and to infinity) and warm, from the solution before every weight moved by about 1e-3 std(w); Newton cold and warm.
Then digits are trained at 2 bits (mirror gradient, warm from step to step, short) with each solver of `training`.

    python -m experiments.studies iterations [--field=value ...] [--out DIR]       # 4 minutes on 2 CPU cores

What was found is in docs/results/studies.md.
"""

import dataclasses
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from experiments import config as configs
from experiments.data.colours import BLUE, CYCLE, ORANGE
from experiments.reporting.plots import caption, panels, save
from experiments.reporting.rows import section
from experiments.runtime.formatting import mean_std, percent, significant
from experiments.tasks import registry as tasks
from experiments.training import run as runs
from mecq_jax import quantizers, transport
from mecq_jax.transport import Newton, Sinkhorn, readout, sorted_sample

SOLVERS = ("sinkhorn zero", "sinkhorn cold", "sinkhorn warm", "newton cold", "newton warm")
DIGITS = configs.CONFIGS / "digits_cnn.py"
METRICS = {
    "marginal": "marginal error k max|b - m|",
    "soft": "RMS error of the soft weights over std(w), %",
    "codes": "wrong hard codes, %",
    "gradient": "relative error of dL/dw, %",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes. `training` holds the solvers that digits are trained with, of `seeds` seeds (0: no training)."""

    n: int = 4096
    levels: tuple[int, ...] = (4, 8, 16)
    epsilons: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
    sinkhorn: tuple[int, ...] = (1, 2, 3, 5, 10, 30, 100, 300, 1000)
    newton: tuple[int, ...] = (1, 2, 3, 5, 8)
    moved: float = 1e-3
    seed: int = 0
    training: tuple[str, ...] = ("sinkhorn 1", "sinkhorn 10", "sinkhorn 100", "newton 1", "newton 2")
    seeds: int = 2
    float_epochs: int = 8
    soft_epochs: int = 6
    hard_epochs: int = 2
    gradient: str = "mirror"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolverConfig(configs.Config):
    """A run's configuration with another solver: 'sinkhorn' or 'newton', and its iterations a training step."""

    solver: str = "newton 2"

    def quantizer(self):
        name, count = self.solver.split()
        kind = {"newton": Newton, "sinkhorn": Sinkhorn}[name]
        quantizer: Any = super().quantizer()
        return dataclasses.replace(quantizer, solver=kind(max_iterations=int(count), tolerance=None))


def sinkhorn_potentials(w, q, b, epsilon, g, count):
    """g after `count` iterations of Sinkhorn; `count` may be traced, so that one vmap covers every count."""
    return jax.lax.fori_loop(0, count, lambda _, g: transport.sinkhorn_step(w, q, g, epsilon, b)[0], g)


def measure(w, q, b, c, epsilon, g):
    """What the potentials g give: marginal error, soft weights, hard codes, dL/dw of L = <c, soft>.

    The gradient is the implicit one taken at g as if g were the solution: what training does with it.
    """
    error = transport.marginal_error(transport.marginal(w, q, g, epsilon), b)
    soft, pullback = jax.vjp(lambda w: readout(w, q, g, epsilon, b, 1.0, "implicit")[0], w)
    return error, soft, transport.hard_codes(w, q, g), pullback(c)[0]


def compare(w, q, b, c, epsilon, exact, g) -> dict[str, jax.Array]:
    """The four errors of the potentials g against the exact ones."""
    (error, soft, codes, gradient), (_, soft0, codes0, gradient0) = (
        measure(w, q, b, c, epsilon, x) for x in (g, exact)
    )
    return {
        "marginal": error,
        "soft": jnp.sqrt(jnp.mean(jnp.square(soft - soft0))) / w.std(),
        "codes": jnp.mean((codes != codes0).astype(jnp.float32)),
        "gradient": jnp.linalg.norm(gradient - gradient0) / jnp.linalg.norm(gradient0),
    }


def solvers(config: Config, k: int) -> dict[str, Any]:
    """{solver: {metric: [epsilon][count]}} for k levels, and the exact solution's own marginal error and passes."""
    rng = np.random.default_rng(config.seed)
    w, c, noise = (jnp.asarray(rng.normal(size=config.n), jnp.float32) for _ in range(3))
    q, b = quantizers.quantile(w[None], k)[0], jnp.full(k, 1 / k, jnp.float32)
    epsilons = jnp.asarray(config.epsilons, jnp.float32) * w.var()
    solve = Newton(max_iterations=200, tolerance=1e-7)
    over_epsilon = partial(jax.vmap, in_axes=(None, 0))
    exact = jax.jit(over_epsilon(lambda w, e: transport.solve(w, q, e, b, solver=solve)))
    solution, shifted = exact(w, epsilons), exact(w + config.moved * w.std() * noise, epsilons)
    # Three starts: no potentials, as in most codes; ours; and the solution before the weights moved.
    best = jax.jit(jax.vmap(lambda e: transport.cold_start(sorted_sample(w, k), q, e, b, 1.0)))(epsilons)
    begin = {"zero": jnp.zeros_like(best), "cold": best, "warm": shifted.potentials}
    counts = jnp.asarray(config.sinkhorn, jnp.int32)
    iterate = jax.jit(jax.vmap(jax.vmap(partial(sinkhorn_potentials, w, q, b), (None, None, 0)), (0, 0, None)))
    found = {f"sinkhorn {name}": iterate(epsilons, g, counts) for name, g in begin.items()}
    for name in ("cold", "warm"):
        each = [newton_potentials(w, q, b, epsilons, begin[name], count) for count in config.newton]
        found[f"newton {name}"] = jnp.stack(each, axis=1)
    errors = jax.jit(jax.vmap(jax.vmap(partial(compare, w, q, b, c), (None, None, 0))))
    out = {name: _lists(errors(epsilons, solution.potentials, g)) for name, g in found.items()}
    exact_passes = {"marginal": solution.marginal_error.tolist(), "iterations": solution.iterations.tolist()}
    return {**out, "exact": exact_passes}


@partial(jax.jit, static_argnums=5)
def newton_potentials(w, q, b, epsilons, init, count):
    """g after `count` passes of Newton from `init` at each epsilon."""
    solver = Newton(max_iterations=count, tolerance=None)

    def one(epsilon, g):
        return transport.solve(w, q, epsilon, b, solver=solver, init=g, verify=False).potentials

    return jax.vmap(one)(epsilons, init)


def _lists(errors: dict[str, jax.Array]) -> dict[str, list]:
    return {name: np.asarray(values).tolist() for name, values in errors.items()}


def train(config: Config) -> dict[str, list[dict[str, float]]]:
    """{solver: [accuracies and marginal error, for each seed]} of digits at 2 bits, from the same float networks."""
    out: dict[str, list[dict[str, float]]] = {name: [] for name in config.training}
    recipe = {name: getattr(config, name) for name in ("float_epochs", "soft_epochs", "hard_epochs", "gradient")}
    base = SolverConfig(**{**dataclasses.asdict(configs.load(DIGITS)), **recipe})
    for seed in range(config.seeds):
        with tempfile.TemporaryDirectory() as folder:
            source, task = None, None
            for name in config.training:
                one = dataclasses.replace(base, seed=seed, solver=name, float_run=source)
                task = task or tasks.make_task(one)
                root = Path(folder) / name.replace(" ", "_")
                result = runs.run(one, root, task=task)
                source = source or str(root)
                errors = [r["marginal_error"] for r in runs.read_metrics(root / "metrics.jsonl") if "entropy" in r]
                scores = {"float": result.float_score, "soft": result.soft_score, "hard": result.hard_score}
                ends = {"median_marginal_error": float(np.median(errors)), "worst_marginal_error": max(errors)}
                out[name].append({**scores, "gap": result.soft_to_hard_gap, **ends})
    return out


def compute(config: Config) -> dict[str, Any]:
    """All numbers."""
    errors = {str(k): solvers(config, k) for k in config.levels}
    counts = {name: list(config.sinkhorn if "sinkhorn" in name else config.newton) for name in SOLVERS}
    training = train(config) if config.seeds else {}
    return {"epsilons": list(config.epsilons), "counts": counts, "errors": errors, "training": training}


def shown(data: dict[str, Any]) -> str:
    """The k of the tables and the figure; the others are in data.json."""
    return "4" if "4" in data["errors"] else next(iter(data["errors"]))


def tables(data: dict[str, Any]) -> list[str]:
    """Iterations to 1 % for every k; the four errors for one k, a row for each epsilon and solver; training."""
    found = [_needed(data)]
    k, every = shown(data), sorted({c for counts in data["counts"].values() for c in counts})
    for metric, title in METRICS.items():
        show = significant if metric == "marginal" else percent
        rows = []
        for i, epsilon in enumerate(data["epsilons"]):
            for solver, counts in data["counts"].items():
                values = dict(zip(counts, data["errors"][k][solver][metric][i], strict=True))
                rows.append([f"{epsilon:g}", solver, *(show(values.get(c)) for c in every)])
        found.append(section(f"{title}, k = {k}", ["epsilon/var", "iterations", *map(str, every)], rows))
    if data["training"]:
        found.append(_training_table(data["training"]))
    return found


def _needed(data: dict[str, Any], bound: float = 0.01) -> str:
    rows = []
    for k, errors in data["errors"].items():
        for i, epsilon in enumerate(data["epsilons"]):
            row = [k, f"{epsilon:g}"]
            for solver, counts in data["counts"].items():
                enough = [c for c, e in zip(counts, errors[solver]["gradient"][i], strict=True) if e <= bound]
                row.append(str(enough[0]) if enough else f"> {counts[-1]}")
            rows.append(row)
    title = f"Iterations, of those tried, until the error of dL/dw is {100 * bound:g} % or less"
    return section(title, ["k", "epsilon/var", *data["counts"]], rows)


def _training_table(training: dict[str, list[dict[str, float]]]) -> str:
    rows = []
    for name, seeds in training.items():
        row = [name]
        for key in ("float", "soft", "hard", "gap"):
            row.append(mean_std([s[key] for s in seeds], factor=100))
        row += [significant(float(np.mean([s[f"{x}_marginal_error"] for s in seeds]))) for x in ("median", "worst")]
        rows.append(row)
    columns = ["iterations a step", "float, %", "soft, %", "hard, %", "gap, points", "median marginal error", "worst"]
    return section(f"digits, 2 bits, test accuracy over {len(seeds)} seeds (mean ± std)", columns, rows)


def draw(path: Path, data: dict[str, Any]) -> None:
    """Errors against iterations for one k, a line for each epsilon: full Sinkhorn, dashed Newton; training at right."""
    k = shown(data)
    errors, counts = data["errors"][k], data["counts"]
    figure, axes = panels(1, 4 if data["training"] else 3, f"Iterations, k = {k}", width=17, height=4.6)
    for axis, metric in zip(axes, ("marginal", "soft", "gradient"), strict=False):
        for i, (epsilon, colour) in enumerate(zip(data["epsilons"], CYCLE, strict=False)):
            for solver, style in (("sinkhorn zero", "-"), ("newton cold", "--")):
                y = np.maximum(errors[solver][metric][i], 1e-8)
                label = f"{epsilon:g}" if style == "-" else None
                axis.plot(counts[solver], y, style, color=colour, marker="o", markersize=3, label=label)
        axis.set_xscale("log")
        axis.set_yscale("log")
        title = METRICS[metric].removesuffix(", %")
        caption(axis, title, "iterations (full: Sinkhorn from 0, dashed: Newton)", "error (0 drawn at 1e-8)")
    axes[0].set_ylim(top=1e2)  # room for the legend
    axes[0].legend(frameon=False, title="epsilon/var", fontsize=8, ncols=3, loc="upper right")
    if data["training"]:
        _draw_training(axes[3], data["training"])
    save(figure, path)


def _draw_training(axis: Axes, training: dict[str, list[dict[str, float]]]) -> None:
    """A point for each seed, a bar at their mean."""
    for shift, key, colour in ((-0.12, "soft", BLUE), (0.12, "hard", ORANGE)):
        for i, seeds in enumerate(training.values()):
            values = [100 * s[key] for s in seeds]
            label = key if i == 0 else None
            axis.plot([i + shift] * len(values), values, "o", color=colour, alpha=0.6, markersize=5, label=label)
            axis.plot([i + shift - 0.1, i + shift + 0.1], [float(np.mean(values))] * 2, color=colour, linewidth=2)
    axis.set_xticks(range(len(training)), list(training), rotation=30)
    axis.margins(y=0.25)
    caption(axis, "digits, 2 bits, each seed and the mean", "solver, iterations a training step", "test accuracy (%)")
    axis.legend(frameon=False, ncols=2, loc="upper left")
