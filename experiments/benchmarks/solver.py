"""Solvers side by side: value and gradient of the soft weights at epsilon = 0.01 var(w), to a marginal error of 1e-6.

python -m experiments.benchmarks.solver [--tiny] [--out DIR]     about 10 minutes on two cores; goes on where it stopped

newton          cold start, tolerance 1e-6, fused backward pass
newton warm 1   one step from the solution, as in a training step with gradient='mirror'
sinkhorn        our loop to a marginal error of 1e-6
ott             ott-jax, log domain, threshold 1e-6, implicit differentiation by lineax's SVD (the setting that works)
ott momentum    the same with adaptive momentum from iteration 100
copy bound      the bytes that must move (weights read in each pass, soft weights and gradient written) at copying speed

Slow rivals are measured at one size each: `ott` and `sinkhorn` at n = 1e4, and at n = 1e6 with k = 8.
"""

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.measure import Results, Row, bandwidth, compiled, seconds
from mecq_jax import Newton, Sinkhorn, codebook, transport
from mecq_jax.assignment import soft_assign

EPSILON = 0.01
SIZES = [(10**4, 4), (10**4, 8), (10**4, 16), (10**6, 4), (10**6, 8), (10**6, 16), (10**7, 4), (10**7, 8), (10**7, 16)]
SLOW = {(10**4, 4), (10**4, 8), (10**4, 16), (10**6, 8)}


def loss(w, q, c, **options):
    """A fixed linear functional of the soft weights, and their entropy."""
    out = soft_assign(w, q, EPSILON * w.var(), **options)
    return jnp.vdot(c, out.soft) / w.size + out.entropy


def ott_loss(w, q, c, momentum=None):
    """The same without the entropy, by ott-jax alone as its users would write it."""
    import lineax
    from ott.geometry import pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import acceleration, implicit_differentiation, sinkhorn

    implicit = implicit_differentiation.ImplicitDiff(solver_kwargs={"nonsym_solver": lambda **_: lineax.SVD()})
    over = None if momentum is None else acceleration.Momentum(start=momentum)
    solver = sinkhorn.Sinkhorn(threshold=1e-6, max_iterations=20_000, implicit_diff=implicit, momentum=over)
    geometry = pointcloud.PointCloud(w[:, None], q[:, None], epsilon=EPSILON * w.var())
    out = solver(linear_problem.LinearProblem(geometry))
    p = jax.nn.softmax((out.g[None] - jnp.square(w[:, None] - q[None])) / (EPSILON * w.var()), axis=1)
    return jnp.vdot(c, p @ q) / w.size


def rivals(w, q, slow: bool) -> dict[str, Callable]:
    """Loss functions (w, q, c) by name."""
    g = jax.jit(transport.solve)(w, q, EPSILON * w.var()).potentials
    warm = Newton(max_iterations=1, tolerance=None)
    out: dict[str, Callable] = {
        "newton": partial(loss, solver=Newton(tolerance=1e-6)),
        "newton warm 1": partial(loss, solver=warm, init=g, gradient="mirror"),
    }
    if slow:
        out |= {
            "sinkhorn": partial(loss, solver=Sinkhorn(tolerance=1e-6, max_iterations=20_000)),
            "ott momentum": partial(ott_loss, momentum=100),
            "ott": ott_loss,
        }
    return out


def measure(n: int, k: int, slow: bool, repeats: int, speed: float) -> list[Row]:
    """Rows of all rivals at one size."""
    rng = np.random.default_rng(0)
    w, c = (jnp.asarray(rng.normal(size=n), jnp.float32) for _ in range(2))
    q = codebook.quantile(w[None], k)[0]
    calls, temporaries = {}, {}
    for name, f in rivals(w, q, slow).items():
        calls[name], temporaries[name] = compiled(jax.value_and_grad(f, (0, 1)), w, q, c)
    times = seconds(calls, repeats)
    # Newton's passes, the readout (w in, soft out), two backward passes (w and the cotangent in, the gradient out).
    solve = jax.jit(partial(transport.solve, solver=Newton(tolerance=1e-6)))
    passes = int(solve(w, q, EPSILON * w.var()).iterations) + 1
    bound = 4 * n * (passes + 2 + 5) / speed
    rows: list[Row] = []
    for name, spent in times.items():
        ratio = {"of_bound": spent / bound} if name == "newton" else {}
        rows.append({"key": f"{n} {k} {name}", "n": n, "k": k, "solver": name, "seconds": spent,
                     "to_newton": spent / times["newton"], "temporaries": temporaries[name] / (4 * n), **ratio})
    return rows


COLUMNS: dict[str, Callable[[Row], str]] = {
    "n": lambda r: f"{r['n']:.0e}",
    "k": lambda r: str(r["k"]),
    "solver": lambda r: r["solver"],
    "value and gradient, s": lambda r: f"{r['seconds']:.3g}",
    "times newton": lambda r: f"{r['to_newton']:.3g}",
    "temporaries / weights": lambda r: f"{r['temporaries']:.2f}",
    "times the copy bound": lambda r: f"{r['of_bound']:.0f}" if "of_bound" in r else "",
}


def main(arguments: list[str] | None = None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="one small size, for a try")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    results = Results("solver", options.out)
    sizes = [(2000, 4)] if options.tiny else SIZES
    speed = bandwidth()
    for n, k in sizes:
        if results.missing([f"{n} {k} newton"]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # ott-jax's dependencies warn of deprecations
                results.add(measure(n, k, options.tiny or (n, k) in SLOW, 1 if options.tiny else 5, speed))
        print(results.table(COLUMNS), flush=True)
    return results


if __name__ == "__main__":
    main()
