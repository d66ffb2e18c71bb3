"""Solvers side by side: value and gradient of the soft weights at epsilon = 0.01 var(w), to a marginal error of 1e-6.

python -m experiments.benchmarks solver [--tiny --out DIR]     about 45 minutes on two cores; goes on where it stopped

newton          cold start, tolerance 1e-6, fused backward pass
newton warm 1   one step from the solution, as in a training step with gradient='mirror'
sinkhorn        our loop to a marginal error of 1e-6
ott             ott-jax, log domain, threshold 1e-6, implicit differentiation by lineax's SVD (the setting that works)
ott momentum    the same with adaptive momentum from iteration 100
copy bound      the bytes that must move (weights read in each pass, soft weights and gradient written) at copying speed

The error is sum_j |b_j - m_j|, ott-jax's own measure, of each solver's potentials in float64. Memory is the
executable's temporaries and, from the process, the most by which its resident memory rose in a call (results
included). At n = 1e7 ott stands without momentum, and not at k = 16, where it would take 38 GB; at 1e8 newton stands
alone. A call of over a minute is made once.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import measure
from experiments.reporting.measured import Pieces
from experiments.reporting.rows import Columns, Row
from mecq_jax import quantizers, transport
from mecq_jax.transport import Newton, Sinkhorn, soft_assign

EPSILON = 0.01
HELD = 16 * 10**7  # n x k whose ott-jax backward pass would take 38 GB, by what 1e6 x 16 took
LONG, ALONE = 10**7, 10**8
SIZES = [(n, k) for n in (10**4, 10**6, LONG) for k in (4, 8, 16)] + [(ALONE, 4)]


def loss(w, q, c, **options):
    """A fixed linear functional of the soft weights, and their entropy; the potentials."""
    out = soft_assign(w, q, EPSILON * w.var(), **options)
    return jnp.vdot(c, out.soft) / w.size + out.entropy, out.solution.potentials


def ott_loss(w, q, c, momentum=None):
    """The same without the entropy, by ott-jax alone as its users would write it."""
    import lineax
    from ott.geometry import pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import acceleration, implicit_differentiation, sinkhorn

    # ott-jax makes its dataclasses by a decorator that mypy does not see through.
    exact = {"nonsym_solver": lambda **_: lineax.SVD()}
    implicit = implicit_differentiation.ImplicitDiff(solver_kwargs=exact)  # type: ignore[call-arg]
    over = None if momentum is None else acceleration.Momentum(start=momentum)  # type: ignore[call-arg]
    solver = sinkhorn.Sinkhorn(threshold=1e-6, max_iterations=2000, implicit_diff=implicit, momentum=over)
    geometry = pointcloud.PointCloud(w[:, None], q[:, None], epsilon=EPSILON * w.var())
    out = solver(linear_problem.LinearProblem(geometry))
    p = jax.nn.softmax((out.g[None] - jnp.square(w[:, None] - q[None])) / (EPSILON * w.var()), axis=1)
    return jnp.vdot(c, p @ q) / w.size, out.g


def baselines(w, q, slow: bool) -> dict[str, Callable]:
    """Loss functions (w, q, c) -> (loss, potentials) by name."""
    g = jax.jit(transport.solve)(w, q, EPSILON * w.var()).potentials
    warm = Newton(max_iterations=1, tolerance=None)
    out: dict[str, Callable] = {
        "newton": partial(loss, solver=Newton(tolerance=1e-6)),
        "newton warm 1": partial(loss, solver=warm, init=g, gradient="mirror"),
    }
    if slow:
        out["sinkhorn"] = partial(loss, solver=Sinkhorn(tolerance=1e-6, max_iterations=20_000))
        if len(w) < LONG:
            out["ott momentum"] = partial(ott_loss, momentum=100)
        if len(w) * len(q) < HELD:
            out["ott"] = ott_loss
    return out


def error(w, q, g) -> float:
    """sum_j |1/k - m_j(g)| in float64, by slices of the weights."""
    epsilon = EPSILON * float(jnp.var(w))
    w, q, g = (np.asarray(x, np.float64) for x in (w, q, g))
    mass = np.zeros_like(q)
    for part in np.array_split(w, -(-len(w) // 10**6)):
        score = (g - np.square(part[:, None] - q)) / epsilon
        p = np.exp(score - score.max(axis=1, keepdims=True))
        mass += (p / p.sum(axis=1, keepdims=True)).sum(axis=0)
    return float(np.abs(mass / len(w) - 1 / len(q)).sum())


def one_size(n: int, k: int, slow: bool, repeats: int) -> list[Row]:
    """Rows of all solvers at one size."""
    rng = np.random.default_rng(0)
    w, c = (jnp.asarray(rng.standard_normal(n, np.float32)) for _ in range(2))
    q = quantizers.quantile(w[None, : 10**6], k)[0]
    work = {}
    for name, f in baselines(w, q, slow).items():
        f = jax.value_and_grad(f, (0, 1), has_aux=True)
        work[name] = measure.compiled(f, w, q, c, read=lambda result: error(w, q, result[0][1]))
        print(f"{n:.0e} {k} {name}: {work[name].first:.3g} s", flush=True)
    times = measure.seconds(work, repeats)
    # Newton's passes, the readout (w in, soft out), two backward passes (w and the cotangent in, the gradient out).
    solve = jax.jit(partial(transport.solve, solver=Newton(tolerance=1e-6)))
    passes = int(solve(w, q, EPSILON * w.var()).iterations) + 1
    bound = 4 * n * (passes + 2 + 5) / measure.bandwidth()
    rows: list[Row] = []
    for name, spent in times.items():
        ratio = {"of_bound": spent / bound} if name == "newton" else {}
        rows.append(
            {
                "key": f"{n} {k} {name}",
                "n": n,
                "k": k,
                "solver": name,
                "seconds": spent,
                "to_newton": spent / times["newton"],
                "error": work[name].read,
                "temporaries": work[name].temporaries / (4 * n),
                "resident": work[name].resident / (4 * n),
                **ratio,
            }
        )
    return rows


def pieces(tiny: bool) -> Pieces:
    if tiny:
        return {"2000 4 newton": partial(one_size, 2000, 4, True, 1)}
    return {f"{n} {k} newton": partial(one_size, n, k, n < ALONE, 5) for n, k in SIZES}


COLUMNS: Columns = {
    "n": lambda r: f"{r['n']:.0e}",
    "k": lambda r: str(r["k"]),
    "solver": lambda r: r["solver"],
    "value and gradient, s": lambda r: f"{r['seconds']:.3g}",
    "error": lambda r: f"{r['error']:.1e}",
    "times newton": lambda r: f"{r['to_newton']:.3g}",
    "temporaries / weights": lambda r: f"{r['temporaries']:.2f}",
    # Less than the result itself: the process had the pages already.
    "process / weights": lambda r: f"{r['resident']:.1f}" if r["resident"] >= 1 else "",
    "times the copy bound": lambda r: f"{r['of_bound']:.0f}" if "of_bound" in r else "",
}
