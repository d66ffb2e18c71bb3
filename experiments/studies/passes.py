"""How many passes over the weights does Newton take from a cold start, and how close does it come?

For groups of several kinds, k levels at the quantiles and epsilon from 1e-4 to 10 var(w): the iterations until the
marginal error k max_j |b_j - m_j| is within 1e-5, or within what a rounding of float32 potentials moves the masses by;
the most over a few seeds, and the worst error that was left. `!` marks a solution that says it has not converged.

    python -m experiments.studies passes [--field=value ...] [--out DIR]       # half a minute on 2 CPU cores
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.colours import CYCLE
from experiments.reporting.plots import caption, panels, save
from experiments.reporting.rows import section
from mecq_jax import quantizers, transport

KINDS = {
    "Gaussian": lambda rng, n: rng.normal(size=n),
    "Laplace": lambda rng, n: rng.laplace(size=n),
    "Student-t, 2 d.o.f.": lambda rng, n: rng.standard_t(2, size=n),
    "60 % zeros": lambda rng, n: np.where(rng.random(n) < 0.6, 0.0, rng.normal(size=n)),
    "multiples of 1/2": lambda rng, n: np.round(2 * rng.normal(size=n)) / 2,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Groups of `n` weights, `levels` k, `epsilons` relative to var(w), `seeds` of each."""

    n: int = 100_000
    levels: tuple[int, ...] = (4, 16, 64)
    epsilons: tuple[float, ...] = (10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4)
    seeds: int = 3


def compute(config: Config) -> dict[str, Any]:
    """records: one for each kind, k and epsilon."""
    solve = jax.jit(transport.solve)
    levels = jax.jit(quantizers.quantile, static_argnums=1)
    records = []
    for kind, draw_weights in KINDS.items():
        for k in config.levels:
            for epsilon in config.epsilons:
                found = []
                for seed in range(config.seeds):
                    w = jnp.asarray(draw_weights(np.random.default_rng(seed), config.n), jnp.float32)
                    found.append(solve(w, levels(w[None], k)[0], epsilon * w.var()))
                worst = {
                    "iterations": max(int(s.iterations) for s in found),
                    "error": max(float(s.marginal_error) for s in found),
                    "converged": all(bool(s.converged) for s in found),
                }
                records.append({"kind": kind, "k": k, "epsilon": epsilon, **worst})
    return {"records": records}


def tables(data: dict[str, Any]) -> list[str]:
    epsilons = sorted({r["epsilon"] for r in data["records"]}, reverse=True)
    rows: dict[tuple[str, int], list[str]] = {}
    for r in data["records"]:
        text = f"{r['iterations']} ({r['error']:.0e}){'' if r['converged'] else ' !'}"
        rows.setdefault((r["kind"], r["k"]), []).append(text)
    columns = ["weights", "k", *(f"{e:g} var" for e in epsilons)]
    return [
        section(
            "Newton's iterations from a cold start (marginal error left)",
            columns,
            [[kind, str(k), *cells] for (kind, k), cells in rows.items()],
        )
    ]


def draw(path: Path, data: dict[str, Any]) -> None:
    ks = sorted({r["k"] for r in data["records"]})
    figure, axes = panels(1, len(ks), "Newton from a cold start", width=max(5.0, 4.2 * len(ks)), height=4)
    for axis, k in zip(axes, ks, strict=True):
        for kind, colour in zip(KINDS, CYCLE, strict=False):
            records = [r for r in data["records"] if r["k"] == k and r["kind"] == kind]
            x, y = [r["epsilon"] for r in records], [r["iterations"] for r in records]
            axis.plot(x, y, color=colour, marker="o", markersize=3, label=kind)
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        caption(axis, f"k = {k}", "epsilon / var(w)", "passes over the weights")
    axes[0].legend(frameon=False, fontsize=8)
    save(figure, path)
