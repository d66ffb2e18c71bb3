"""What does holding the level masses cost in squared error, and what does relaxing them cost in occupancy?

The marginal is held to uniform masses by KL with strength tau = epsilon rho / (1 - rho): balance rho = 0 is a softmax
over distances (differentiable k-means), rho = 1 exact masses 1/k. Of groups of weights (synthetic, and kernels of a
float CNN trained on digits), levels at Lloyd-Max's, for each rho, epsilon (relative to var(w)) and number of bits:

    codes_i = argmax_j p_ij,  mu_j = mean of w over codes = j
    error   = mean_i (w_i - mu_codes_i)^2 / var(w),    over the same with codes of the nearest levels (Lloyd-Max)
    occupancy of the codes and masses m_j of the soft assignment, least and most, times k;    mean entropy, nats

    python -m experiments.studies relaxation [--float_run=RUN] [--field=value ...] [--out DIR]    # 4 minutes, 2 cores

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

import mecq_reader
from experiments import config as configs
from experiments.data.colours import CYCLE
from experiments.data.names import by_path
from experiments.reporting.plots import caption, panels, save
from experiments.reporting.rows import section
from experiments.runtime.formatting import significant
from experiments.training import run as runs
from mecq_jax import quantizers, transport

DIGITS = configs.CONFIGS / "digits_cnn.py"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes. `float_run`: folder of a run to take trained `kernels` from; None trains digits for `float_epochs`."""

    n: int = 20_000
    balances: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
    epsilons: tuple[float, ...] = (0.3, 0.03, 0.003)
    bits: tuple[int, ...] = (1, 2, 3, 4)
    kernels: tuple[str, ...] = ("convs/2/kernel", "convs/3/kernel")
    float_run: str | None = None
    float_epochs: int = 8
    seed: int = 0


def samples(config: Config) -> list[dict[str, np.ndarray]]:
    """Groups by name, those of one size together: synthetic, then each trained kernel; standardised."""
    rng = np.random.default_rng(config.seed)
    synthetic = {
        "Gaussian": rng.normal(size=config.n),
        "Laplace": rng.laplace(size=config.n),
        "Student-t, 3 d.o.f.": rng.standard_t(3, size=config.n),
    }
    trained = [{name: w} for name, w in trained_kernels(config).items()]
    return [{name: (w - w.mean()) / w.std() for name, w in group.items()} for group in (synthetic, *trained)]


def trained_kernels(config: Config) -> dict[str, np.ndarray]:
    """{name: weights} of the float network of a run's folder, or of digits trained here."""
    if not config.kernels:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(config.float_run or Path(folder) / "run")
        if config.float_run is None:
            epochs = {"float_epochs": config.float_epochs, "soft_epochs": 0, "hard_epochs": 0}
            recipe: dict[str, Any] = {**epochs, "seed": config.seed}
            runs.run(dataclasses.replace(configs.load(DIGITS), **recipe), root)
        dense = by_path(mecq_reader.read_dense(root / "float.safetensors"))
    return {f"trained {name}": dense[name].ravel().astype(np.float64) for name in config.kernels}


def squared_error(w, codes, k: int):
    """Mean squared error of the hard weights over var(w), each level the mean of its cell."""
    count = jnp.zeros(k, jnp.float32).at[codes].add(1.0)
    levels = jnp.zeros(k, jnp.float32).at[codes].add(w) / jnp.maximum(count, 1.0)
    return jnp.mean(jnp.square(w - levels[codes])) / w.var()


def assign(w, epsilon, *, k: int, balance: float) -> dict[str, jax.Array]:
    """Of one group: error of the hard weights, Lloyd-Max's, entropy, and least and most mass of a level times k."""
    q = quantizers.lloyd_max(w[None], k)[0]
    out = transport.soft_assign(w, q, epsilon * w.var(), balance=balance, solver="newton")
    codes = transport.hard_codes(w, q, out.solution.potentials).astype(jnp.int32)
    nearest = transport.hard_codes(w, q, jnp.zeros_like(q)).astype(jnp.int32)
    share = transport.occupancy(codes.astype(jnp.uint8), k)
    error, least_error = squared_error(w, codes, k), squared_error(w, nearest, k)
    return {
        "error": error,
        "lloyd_max": least_error,
        "ratio": error / least_error,
        "entropy": out.entropy,
        "hard_least": k * share.min(),
        "hard_most": k * share.max(),
        "soft_least": k * out.mass.min(),
        "soft_most": k * out.mass.max(),
        "marginal_error": out.solution.marginal_error,
        "converged": out.solution.converged,
    }


def compute(config: Config) -> dict[str, Any]:
    """All numbers: a record for each group, number of bits, epsilon and balance."""
    records = []
    epsilons = jnp.asarray(config.epsilons, jnp.float32)
    for group in samples(config):
        w = jnp.asarray(np.stack(list(group.values())), jnp.float32)
        for bits in config.bits:
            for balance in config.balances:
                one = partial(assign, k=2**bits, balance=balance)
                found = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(w, epsilons)
                found = {name: np.asarray(x) for name, x in found.items()}
                for i, name in enumerate(group):
                    for j, epsilon in enumerate(config.epsilons):
                        setting = {"weights": name, "n": w.shape[1], "bits": bits}
                        setting |= {"epsilon": epsilon, "balance": balance}
                        records.append(setting | {key: x[i, j].item() for key, x in found.items()})
    return {"records": records}


def select(data: dict[str, Any], **what: Any) -> list[dict[str, Any]]:
    """The records with these values."""
    return [r for r in data["records"] if all(r[key] == value for key, value in what.items())]


def _values(data: dict[str, Any], key: str) -> list[Any]:
    return list(dict.fromkeys(r[key] for r in data["records"]))


def tables(data: dict[str, Any]) -> list[str]:
    """A row for each group and number of bits, a column for each balance, for each epsilon; then occupancy."""
    balances, found = _values(data, "balance"), []
    shown = (
        ("squared error over Lloyd-Max's", lambda r: f"{r['ratio']:.2f}"),
        (
            "occupancy of the hard codes, least / most, times k",
            lambda r: f"{r['hard_least']:.2f} / {r['hard_most']:.2f}",
        ),
        ("mean entropy, nats", lambda r: significant(r["entropy"])),
    )
    for title, show in shown:
        for epsilon in _values(data, "epsilon"):
            rows = []
            for name in _values(data, "weights"):
                for bits in _values(data, "bits"):
                    records = select(data, weights=name, bits=bits, epsilon=epsilon)
                    rows.append([name, str(bits), *(show(r) for r in records)])
            columns = ["weights", "bits", *(f"rho = {b:g}" for b in balances)]
            found.append(section(f"epsilon = {epsilon:g} var: {title}", columns, rows))
    return found


def draw(path: Path, data: dict[str, Any]) -> None:
    """A column for each number of bits, against balance: error of each group above, occupancy of the first below."""
    bits, epsilons, groups = (_values(data, key) for key in ("bits", "epsilon", "weights"))
    middle, first = sorted(epsilons)[len(epsilons) // 2], groups[0]
    title = f"Relaxed marginals: error at epsilon = {middle:g} var(w); occupancy, {first}, each epsilon"
    figure, axes = panels(2, len(bits), title, width=max(6.0, 3.9 * len(bits)), height=7)
    for column, b in enumerate(bits):
        top, bottom = axes[column], axes[len(bits) + column]
        for name, colour in zip(groups, CYCLE, strict=False):
            _line(top, select(data, weights=name, bits=b, epsilon=middle), "ratio", "-", colour, name)
        for epsilon, colour in zip(epsilons, CYCLE, strict=False):
            records = select(data, weights=first, bits=b, epsilon=epsilon)
            _line(bottom, records, "hard_least", "-", colour, f"least, epsilon {epsilon:g}")
            _line(bottom, records, "hard_most", "--", colour, "most" if epsilon == epsilons[-1] else None)
        caption(top, f"{b} bit{'s' * (b > 1)}", "balance rho", "squared error over Lloyd-Max's" if column == 0 else "")
        caption(bottom, "", "balance rho", "occupancy of hard codes, times k" if column == 0 else "")
        top.set_ylim(bottom=0.98, top=max(1.1, top.get_ylim()[1]))
        bottom.set_ylim(0, 1.7)
    axes[0].legend(frameon=False, fontsize=8)
    axes[len(bits)].legend(frameon=False, fontsize=8, loc="lower left")
    save(figure, path)


def _line(axis: Axes, records: list[dict[str, Any]], key: str, style: str, colour: str, label: str | None) -> None:
    """One number against balance, at equal steps: the interesting balances crowd at 1."""
    x = list(range(len(records)))
    axis.plot(x, [r[key] for r in records], style, color=colour, marker="o", markersize=3, label=label)
    axis.set_xticks(x, [f"{r['balance']:g}" for r in records])
