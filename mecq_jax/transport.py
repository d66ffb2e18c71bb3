"""Solvers of entropic transport from weights to levels, behind one signature.

    solution = solve(w, q, epsilon, b, balance=1.0, solver=Newton())
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

from mecq_jax import newton, semidual, starts
from mecq_jax.semidual import Scalar


class Solution(NamedTuple):
    """What a solver found.

    Attributes:
      potentials: g, [k], weight squared, mean zero over the levels of positive mass; far below for the others.
      marginal_error: k max_j |beta_j - m_j(g)| at these potentials (beta = b at balance 1).
      iterations: iterations done.
      converged: whether marginal_error is within the solver's tolerance; with Newton, or within what one rounding of
        the potentials moves the masses by (at epsilon = 1e-4 var(w) a tie of half the weights moves by about 1e-4).
    """

    potentials: Float[Array, " k"]
    marginal_error: Scalar
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Newton:
    """Damped Newton on the semi-dual (see `newton`): one pass over the weights an iteration.

    Attributes:
      max_iterations: bound on the passes; from a good warm start two hold the solution in training.
      tolerance: marginal error at which to stop; None does exactly `max_iterations`, in training from a warm start.
    """

    max_iterations: int = 100
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
      momentum: start ott-jax's adaptive over-relaxation at this iteration; None is plain Sinkhorn. At small epsilon it
        saves nine iterations of ten.
    """

    max_iterations: int = 2000
    tolerance: float = 1e-5
    momentum: int | None = None


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
    """Level masses b, [k], float32: uniform if None; at least two above 0, none below, with sum 1."""
    if prior is None:
        return np.full(k, 1 / k, np.float32)
    b = np.asarray(prior, np.float32)
    if b.shape != (k,):
        raise ValueError(f"the prior has shape {b.shape} for k = {k} levels; give {k} masses")
    if not (np.isfinite(b).all() and (b >= 0).all()):
        raise ValueError(f"the prior {b.tolist()} must be finite and at least 0; a level that is to stay empty has 0")
    if (b > 0).sum() < 2:
        raise ValueError(f"the prior {b.tolist()} must give mass to two levels or more; use fewer levels")
    if abs(float(b.sum()) - 1) > 1e-4:
        raise ValueError(f"the prior sums to {float(b.sum()):.6g}; divide it by its sum")
    return b / b.sum()


def check_balance(balance: float) -> float:
    """rho in [0, 1]."""
    if not 0 <= balance <= 1:
        raise ValueError(f"balance = {balance}: it must be in [0, 1], from no marginal term to exact masses")
    return float(balance)


def solve(
    w: Float[Array, " n"],
    q: Float[Array, " k"],
    epsilon: Scalar | float,
    b: Float[Array, " k"] | None = None,
    *,
    balance: float = 1.0,
    solver: str | Solver = "newton",
    init: Float[Array, " k"] | None = None,
    verify: bool = True,
) -> Solution:
    """Potentials g of the entropic transport of weights `w` to levels `q` (equations in `semidual`).

    Args:
      w: weights of one group, any floating type; vmap over groups.
      q: levels, ascending.
      epsilon: entropic regularisation, in weight squared, above 0; trustworthy from 1e-4 to 10 times var(w).
      b: level masses, at least 0 with sum 1; None is uniform.
      balance: rho, from 1 (masses exactly b) to 0 (no marginal term: g = 0).
      solver: 'newton', 'sinkhorn', 'ott', or one of those classes with its settings.
      init: potentials to start from (warm start); None is a cold start.
      verify: False saves the pass that evaluates the result of a fixed number of iterations; marginal_error is then
        the one before the last update.

    Returns:
      A `Solution`. A failure to converge is `converged == False` with the error that was reached, never a NaN.
    """
    solver, balance = get_solver(solver), check_balance(balance)
    k = q.shape[0]
    b = jnp.full(k, 1 / k, jnp.float32) if b is None else jnp.asarray(b, jnp.float32)
    w, q = w.astype(jnp.float32), q.astype(jnp.float32)
    # Scales of the line change nothing, and those by powers of two not one bit: O(1) numbers keep float32 safe.
    spread = jnp.sqrt(jnp.mean(jnp.square(w - w.mean())))
    extent = jnp.max(jnp.abs(q - w.mean()))
    scale = jnp.exp2(jnp.round(jnp.log2(jnp.maximum(jnp.maximum(spread, 1e-3 * extent), 1e-15))))
    w, q = w / scale, q / scale
    unit = jnp.square(scale)
    e = jnp.maximum(jnp.asarray(epsilon, jnp.float32) / unit, 1e-12)
    if balance == 0:
        g = starts.exclude(jnp.zeros_like(q), w, q, e, b)
        zero = jnp.zeros((), jnp.float32)
        return Solution(g * unit, zero, zero.astype(jnp.int32), zero == 0)
    g = _cold_start(solver, w, q, e, b, balance) if init is None else init.astype(jnp.float32) / unit
    g = starts.exclude(g, w, q, e, b)
    run = {Newton: _newton, Sinkhorn: _sinkhorn, Ott: _ott}[type(solver)]
    solution = run(solver, w, q, e, b, balance, g, verify)
    return solution._replace(potentials=solution.potentials * unit)


def _cold_start(solver, w, q, epsilon, b, balance):
    samples = starts.sample(w, q.shape[0])
    g = starts.best(samples, q, epsilon, b, balance)
    if isinstance(solver, Newton) and samples.size < w.size:
        # A sample's solution is off by its noise alone, and costs a fraction of one pass over all weights.
        g, *_ = newton.ascend(samples.reshape(-1), q, epsilon, b, balance, g, solver.max_iterations, 1e-3)
    return g


def _newton(solver, w, q, epsilon, b, balance, g, verify):
    if solver.tolerance is not None:
        return Solution(*newton.ascend(w, q, epsilon, b, balance, g, solver.max_iterations, solver.tolerance))
    g, error = newton.steps(w, q, epsilon, b, balance, g, solver.max_iterations)
    error = _error_at(w, q, g, epsilon, b, balance) if verify else error
    return _finish(g, error, solver.max_iterations, solver)


def sinkhorn_step(
    w: Float[Array, " n"],
    q: Float[Array, " k"],
    g: Float[Array, " k"],
    epsilon: Scalar,
    b: Float[Array, " k"],
    balance: float = 1.0,
) -> tuple[Float[Array, " k"], Scalar]:
    """rho (g + epsilon (log b - log m(g))), and the marginal error at g.

    At rho = 1 it is Sinkhorn's iteration, at rho < 1 that of Chizat et al. for the relaxed marginal, in the gauge where
    the masses of beta and m agree.
    """
    m = semidual.marginal(w, q, g, epsilon)
    error = semidual.marginal_error(m, semidual.target(g, epsilon, b, balance))
    ratio = jnp.where(b > 0, b, 1.0) / jnp.maximum(jnp.where(b > 0, m, 1.0), 1e-30)
    new = balance * (g + epsilon * jnp.log(ratio))
    return jnp.where(b > 0, semidual.centre(new, b), g), error


def _sinkhorn(solver, w, q, epsilon, b, balance, g, verify):
    def step(state):
        g, _, iterations = state
        return *sinkhorn_step(w, q, g, epsilon, b, balance), iterations + 1

    def unfinished(state):
        return (state[1] > solver.tolerance) & (state[2] < solver.max_iterations)

    state = (g, jnp.full((), jnp.inf, jnp.float32), jnp.zeros((), jnp.int32))
    if solver.tolerance is None:
        # A scan, which can be differentiated: the unrolled gradient.
        state = jax.lax.scan(lambda s, _: (step(s), None), state, None, length=solver.max_iterations)[0]
    else:
        state = jax.lax.while_loop(unfinished, step, state)
    g, error, iterations = state
    if verify:
        error = _error_at(w, q, g, epsilon, b, balance)
    return _finish(g, error, iterations, solver)


def _ott(solver, w, q, epsilon, b, balance, g, verify):
    # Imported here: ott-jax takes seconds to load, warns of its own dependencies, and only this solver needs it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from ott.geometry import pointcloud
        from ott.problems.linear import linear_problem
        from ott.solvers.linear import acceleration, sinkhorn

    geometry = pointcloud.PointCloud(w[:, None], q[:, None], epsilon=epsilon)
    problem = linear_problem.LinearProblem(geometry, b=b, tau_b=balance)
    momentum = None if solver.momentum is None else acceleration.Momentum(start=solver.momentum)
    run = sinkhorn.Sinkhorn(threshold=solver.tolerance, max_iterations=solver.max_iterations, momentum=momentum)
    # ott-jax relies on implicit promotion; a caller's strict settings are for the caller's code.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        out = run(problem, init=(jnp.zeros_like(w), jnp.where(b > 0, g, -jnp.inf)))
    g = starts.exclude(jnp.where(b > 0, out.g, 0.0), w, q, epsilon, b)
    return _finish(g, _error_at(w, q, g, epsilon, b, balance), out.n_iters, solver)


def verified(
    solution: Solution,
    m: Float[Array, " k"],
    epsilon: Scalar,
    b: Float[Array, " k"],
    balance: float,
    solver: str | Solver,
) -> Solution:
    """A solution found by a fixed number of passes, with the error of the masses m that its potentials gave."""
    if get_solver(solver).tolerance is not None or balance == 0:
        return solution
    error = semidual.marginal_error(m, semidual.target(solution.potentials, epsilon, b, balance))
    return _finish(solution.potentials, error, solution.iterations, get_solver(solver))


def _error_at(w, q, g, epsilon, b, balance):
    return semidual.marginal_error(
        semidual.marginal(w, q, g, epsilon), semidual.target(g, epsilon, b, balance)
    )


def _finish(g, error, iterations, solver):
    tolerance = SOLVERS["newton"].tolerance if solver.tolerance is None else solver.tolerance
    return Solution(g, error, jnp.asarray(iterations, jnp.int32), error <= tolerance)
