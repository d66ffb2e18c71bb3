"""Solvers of entropic transport from weights to levels, behind one signature.

    solution = solve(w, q, epsilon, solver=Newton())
    solution.potentials, solution.marginal_error, solution.iterations, solution.converged

`Newton` (default) maximises the semi-dual, `Sinkhorn` iterates its fixed point, `Ott` calls ott-jax. All three return
the same potentials, in the convention of `semidual`, from float32 arithmetic on standardised weights.
"""

import dataclasses
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mecq_jax import semidual

Scalar = Float[Array, ""]


class Solution(NamedTuple):
    """What a solver found.

    Attributes:
      potentials: g, [k], weight squared, sum zero.
      marginal_error: k max_j |b_j - m_j(g)| at these potentials.
      iterations: iterations done.
      converged: whether marginal_error <= the solver's tolerance.
    """

    potentials: Float[Array, " k"]
    marginal_error: Scalar
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Newton:
    """Damped Newton on the semi-dual: d = K^-1 (b - m) epsilon, g <- g + alpha d.

    F is concave, so its slope along d falls: a trial point whose slope is more negative than half the first slope has
    overshot, and alpha is cut by the secant; every other trial is taken. One pass over the weights an iteration.

    Attributes:
      max_iterations: bound on the passes; from a good warm start two hold the solution in training.
      tolerance: marginal error at which to stop; None does exactly `max_iterations`.
    """

    max_iterations: int = 50
    tolerance: float | None = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sinkhorn:
    """g <- g + epsilon (log b - log m(g)). Linear convergence: about 13 var(w)/epsilon iterations for 1e-6.

    Attributes:
      max_iterations: bound on the iterations.
      tolerance: marginal error at which to stop; None does exactly `max_iterations`, and can then be differentiated
        through in reverse mode (the unrolled gradient).
    """

    max_iterations: int = 2000
    tolerance: float | None = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ott:
    """ott-jax's `Sinkhorn` on a `PointCloud`, for reference and studies; O(n k) memory.

    Attributes:
      max_iterations: bound on the iterations, a multiple of 10.
      tolerance: L1 error of the column sums at which ott-jax stops, and marginal error below which `converged` holds.
    """

    max_iterations: int = 2000
    tolerance: float = 1e-5


Solver = Newton | Sinkhorn | Ott
SOLVERS: dict[str, Solver] = {"newton": Newton(), "sinkhorn": Sinkhorn(), "ott": Ott()}


def get_solver(solver: str | Solver) -> Solver:
    """The solver of that name with its defaults, or the given one, checked."""
    if isinstance(solver, str):
        if solver not in SOLVERS:
            raise ValueError(f"solver {solver!r} is not one of {sorted(SOLVERS)}")
        return SOLVERS[solver]
    if not isinstance(solver, Solver):
        raise TypeError(f"solver must be a name or Newton, Sinkhorn or Ott, not {solver!r}")
    if solver.max_iterations < 1:
        raise ValueError(f"max_iterations = {solver.max_iterations}: a solver needs at least 1")
    if solver.tolerance is not None and not solver.tolerance > 0:
        raise ValueError(f"tolerance = {solver.tolerance}: it must be above 0, or None for a fixed number")
    if isinstance(solver, Ott) and solver.max_iterations % 10:
        raise ValueError(f"max_iterations = {solver.max_iterations}: ott-jax needs a multiple of 10")
    return solver


def check_prior(prior: object, k: int) -> np.ndarray:
    """Level masses b, [k], float32: uniform if None; positive with sum 1."""
    if prior is None:
        return np.full(k, 1 / k, np.float32)
    b = np.asarray(prior, np.float32)
    if b.shape != (k,):
        raise ValueError(f"the prior has shape {b.shape} for k = {k} levels; give {k} masses")
    if not (np.isfinite(b).all() and (b > 0).all()):
        raise ValueError(f"the prior {b.tolist()} must be finite and above 0; drop the levels that are to stay empty")
    if abs(float(b.sum()) - 1) > 1e-4:
        raise ValueError(f"the prior sums to {float(b.sum()):.6g}; divide it by its sum")
    return b / b.sum()


def solve(
    w: Float[Array, " n"],
    q: Float[Array, " k"],
    epsilon: Scalar | float,
    b: Float[Array, " k"] | None = None,
    *,
    solver: str | Solver = "newton",
    init: Float[Array, " k"] | None = None,
) -> Solution:
    """Potentials g of the entropic transport of weights `w` to levels `q` (equations in `semidual`).

    Args:
      w: weights of one group, any floating type; vmap over groups.
      q: levels, ascending.
      epsilon: entropic regularisation, in weight squared, above 0; trustworthy from 1e-4 to 10 times var(w).
      b: level masses, positive with sum 1; None is uniform.
      solver: 'newton', 'sinkhorn', 'ott', or one of those classes with its settings.
      init: potentials to start from (warm start); None is a cold start.

    Returns:
      A `Solution`. A failure to converge is `converged == False` with the error that was reached, never a NaN.
    """
    solver = get_solver(solver)
    k = q.shape[0]
    b = jnp.full(k, 1 / k, jnp.float32) if b is None else jnp.asarray(b, jnp.float32)
    w, q = w.astype(jnp.float32), q.astype(jnp.float32)
    # The problem is invariant to shifts and scales of the line; O(1) coordinates keep float32 safe.
    centre = w.mean()
    w, q = w - centre, q - centre
    scale = jnp.sqrt(jnp.mean(jnp.square(w)))
    extent = jnp.max(jnp.abs(q - w.mean()))
    scale = jnp.where(scale > 1e-6 * extent, scale, jnp.maximum(extent, 1e-30))
    w, q = w / scale, q / scale
    unit = jnp.square(scale)
    e = jnp.maximum(jnp.asarray(epsilon, jnp.float32) / unit, 1e-12)
    g = _cold_start(w, q, e, b) if init is None else init.astype(jnp.float32) / unit
    run = {Newton: _newton, Sinkhorn: _sinkhorn, Ott: _ott}[type(solver)]
    solution = run(solver, w, q, e, b, g - g.mean())
    return solution._replace(potentials=solution.potentials * unit)


def _cold_start(w, q, epsilon, b):
    """The better of the two limits; the entropic borders sit between them."""
    low, high = semidual.start_low(w, q, epsilon, b), semidual.start_high(w, q, epsilon, b)
    error_low, error_high = (
        semidual.marginal_error(semidual.marginal(w, q, g, epsilon), b) for g in (low, high)
    )
    return jnp.where(error_low <= error_high, low, high)


class _Search(NamedTuple):
    """State of the damped Newton iteration: the accepted point, its direction, and the trial step along it."""

    g: Float[Array, " k"]
    direction: Float[Array, " k"]
    slope: Scalar
    alpha: Scalar
    best: Float[Array, " k"]
    error: Scalar
    iterations: Int[Array, ""]


def _newton(solver, w, q, epsilon, b, g):
    def evaluate(g):
        m, links = semidual.marginal_and_links(w, q, g, epsilon)
        residual = b - m
        gaps = epsilon * semidual.solve_links(links, residual)
        # Where a cell is empty the curvature says nothing: no border moves further than a standard deviation.
        bound = 2 * jnp.diff(q) + 4 * epsilon
        direction = semidual.from_gaps(jnp.clip(gaps, -bound, bound))
        return residual, direction, semidual.marginal_error(m, b)

    def step(s):
        trial = s.g + s.alpha * s.direction
        residual, direction, error = evaluate(trial)
        slope = residual @ s.direction
        overshot = (slope < -0.5 * s.slope) & (s.alpha > 1e-6)
        secant = s.alpha * jnp.clip(s.slope / jnp.maximum(s.slope - slope, 1e-30), 0.1, 0.6)
        better = error < s.error
        return _Search(
            g=jnp.where(overshot, s.g, trial),
            direction=jnp.where(overshot, s.direction, direction),
            slope=jnp.where(overshot, s.slope, residual @ direction),
            alpha=jnp.where(overshot, secant, 1.0),
            best=jnp.where(better, trial, s.best),
            error=jnp.where(better, error, s.error),
            iterations=s.iterations + 1,
        )

    # The first pass evaluates the start itself: alpha = 0 along no direction.
    zero = jnp.zeros_like(g)
    infinite = jnp.full((), jnp.inf, jnp.float32)
    start = _Search(g, zero, zero[0], zero[0], g, infinite, jnp.zeros((), jnp.int32))
    state = _iterate(step, step(start), solver)
    return _finish(state.best, state.error, state.iterations - 1, solver)


def _sinkhorn(solver, w, q, epsilon, b, g):
    def step(state):
        g, _, iterations = state
        m = semidual.marginal(w, q, g, epsilon)
        update = epsilon * (jnp.log(b) - jnp.log(jnp.maximum(m, 1e-30)))
        g = g + update
        return g - g.mean(), semidual.marginal_error(m, b), iterations + 1

    start = (g, jnp.full((), jnp.inf, jnp.float32), jnp.zeros((), jnp.int32))
    g, _, iterations = _iterate(step, start, solver)
    error = semidual.marginal_error(semidual.marginal(w, q, g, epsilon), b)
    return _finish(g, error, iterations, solver)


def _ott(solver, w, q, epsilon, b, g):
    # Imported here: ott-jax takes seconds to load, warns of its own dependencies, and only this solver needs it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from ott.geometry import pointcloud
        from ott.problems.linear import linear_problem
        from ott.solvers.linear import sinkhorn

    geometry = pointcloud.PointCloud(w[:, None], q[:, None], epsilon=epsilon)
    problem = linear_problem.LinearProblem(geometry, b=b)
    run = sinkhorn.Sinkhorn(threshold=solver.tolerance, max_iterations=solver.max_iterations)
    # ott-jax relies on implicit promotion; a caller's strict settings are for the caller's code.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        out = run(problem, init=(jnp.zeros_like(w), g))
    error = semidual.marginal_error(semidual.marginal(w, q, out.g, epsilon), b)
    return _finish(out.g - out.g.mean(), error, out.n_iters, solver)


def _error(state):
    return state.error if isinstance(state, _Search) else state[1]


def _iterate(step, state, solver):
    """`step` until the state's error is within the tolerance, or a fixed number of times by a differentiable scan."""
    if solver.tolerance is None:
        return jax.lax.scan(lambda s, _: (step(s), None), state, None, length=solver.max_iterations)[0]

    def unfinished(carry):
        state, count = carry
        return (_error(state) > solver.tolerance) & (count < solver.max_iterations)

    return jax.lax.while_loop(unfinished, lambda c: (step(c[0]), c[1] + 1), (state, 0))[0]


def _finish(g, error, iterations, solver):
    tolerance = SOLVERS["newton"].tolerance if solver.tolerance is None else solver.tolerance
    return Solution(g, error, jnp.asarray(iterations, jnp.int32), error <= tolerance)
