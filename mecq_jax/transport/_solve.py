"""Solvers of entropic transport from weights to levels, behind one signature.

    solution = solve(w, q, epsilon, b, balance=1.0, solver=Newton())
    solution.potentials, solution.marginal_error, solution.iterations, solution.converged

`Newton` (default) maximises the semi-dual, `Sinkhorn` iterates its fixed point, `Ott` calls ott-jax. All three return
the same potentials, in the convention of `mecq_jax.transport`, from float32 arithmetic on standardised weights.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from mecq_jax.transport._initial_potentials import cold_start, exclude, sorted_sample
from mecq_jax.transport._newton import Newton, ascend
from mecq_jax.transport._ott import Ott
from mecq_jax.transport._semidual import Scalar, marginal_error, relaxed_marginal
from mecq_jax.transport._sinkhorn import Sinkhorn
from mecq_jax.transport._solution import Problem, Solution

#: Any of the solver classes.
Solver = Newton | Sinkhorn | Ott
#: The solvers by name, with their defaults: `SOLVERS["newton"] == Newton()`.
SOLVERS: dict[str, Solver] = {"newton": Newton(), "sinkhorn": Sinkhorn(), "ott": Ott()}


def get_solver(solver: str | Solver) -> Solver:
    """The solver of a name with its defaults, or the given one, after checking its settings.

    Args:
      solver: 'newton', 'sinkhorn' or 'ott'; or a `Newton`, `Sinkhorn` or `Ott`.

    Returns:
      The solver.

    Raises:
      ValueError: if no solver has that name, its bound on iterations is below 1 (with `Ott`: no multiple of 10), or
        its tolerance is not above 0.
      TypeError: if it is neither a name nor a solver.

    Example:
      >>> from mecq_jax.transport import get_solver
      >>> get_solver("newton")
      Newton(max_iterations=100, tolerance=1e-05)
    """
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


def check_prior(prior: object, k: int) -> Float32[np.ndarray, " k"]:
    """Check the masses of the levels, and divide them by their sum.

    Args:
      prior: the masses b, [k], anything that NumPy makes an array of; None is uniform.
      k: the number of levels.

    Returns:
      b, [k], float32, with sum 1. A level of mass 0 stays empty.

    Raises:
      ValueError: if the shape is not [k], a mass is negative or not finite, fewer than two are above 0, or their sum
        is off 1 by more than 1e-4.

    Example:
      >>> from mecq_jax.transport import check_prior
      >>> check_prior(None, 4).tolist(), check_prior([0.75, 0, 0.25], 3).tolist()
      ([0.25, 0.25, 0.25, 0.25], [0.75, 0.0, 0.25])
    """
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
    return np.asarray(b / b.sum())


def check_balance(balance: float) -> float:
    """Check the balance rho.

    Args:
      balance: rho, from 0 (no marginal term) to 1 (exact masses).

    Returns:
      The balance, a Python float.

    Raises:
      ValueError: if it is outside [0, 1].

    Example:
      >>> from mecq_jax.transport import check_balance
      >>> check_balance(0.9)
      0.9
    """
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
    """Solve the entropic transport of one group of weights to levels, and return its potentials.

        P = argmin_{P >= 0} <C, P> - epsilon H(P) + tau KL(P^T 1 | b)   s.t.   P 1 = 1/n,      C_ij = (w_i - q_j)^2
        P_ij = exp((f_i + g_j - C_ij) / epsilon),                     tau = epsilon rho / (1 - rho)

    At balance rho = 1 the last term is the constraint P^T 1 = b.

    Args:
      w: weights of one group, [n], any floating type; vmap over groups.
      q: levels, [k], weight, ascending.
      epsilon: entropic regularisation, weight squared, above 0; trustworthy from 1e-4 to 10 times var(w).
      b: level masses, [k], at least 0 with sum 1; None is uniform.
      balance: rho, from 1 (masses exactly b) to 0 (no marginal term: g = 0).
      solver: 'newton', 'sinkhorn', 'ott', or one of those classes with its settings.
      init: potentials to start from, [k], weight squared (warm start); None is `cold_start`.
      verify: False saves the pass that evaluates the result of a fixed number of iterations; marginal_error is then
        the one before the last update.

    Returns:
      A `Solution`. A failure to converge is `converged == False` with the error that was reached, never a NaN.

    Raises:
      ValueError: if the solver's name or settings or the balance are not valid (`get_solver`, `check_balance`).
      TypeError: if the solver is neither a name nor a solver.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import hard_codes, solve
      >>> w, q = jnp.array([-1.0, -0.9, -0.8, 5.0]), jnp.array([-1.0, 1.0])
      >>> hard_codes(w, q, solve(w, q, epsilon=0.01).potentials).tolist()  # half of the weights to each level
      [0, 0, 1, 1]

    Source: Cuturi and Peyre, 2018, "Semi-dual regularized optimal transport", SIAM Review 60(4), arXiv 1811.05527.
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
        g = exclude(jnp.zeros_like(q), w, q, e, b)
        zero = jnp.zeros((), jnp.float32)
        return Solution(g * unit, zero, zero.astype(jnp.int32), zero == 0)
    problem = Problem(w, q, e, b, balance)
    g = _cold_start(solver, problem) if init is None else init.astype(jnp.float32) / unit
    solution = solver.run(problem, exclude(g, w, q, e, b), verify)
    return solution._replace(potentials=solution.potentials * unit)


def _cold_start(solver: Solver, problem: Problem) -> Float[Array, " k"]:
    samples = sorted_sample(problem.w, problem.q.shape[0])
    g = cold_start(samples, problem.q, problem.epsilon, problem.b, problem.balance)
    if isinstance(solver, Newton) and samples.size < problem.w.size:
        # A sample's solution is off by its noise alone, and costs a fraction of one pass over all weights.
        g, *_ = ascend(dataclasses.replace(problem, w=samples.reshape(-1)), g, solver.max_iterations, 1e-3)
    return g


def verified(
    solution: Solution,
    m: Float[Array, " k"],
    epsilon: Scalar,
    b: Float[Array, " k"],
    balance: float,
    solver: str | Solver,
) -> Solution:
    """The solution of a fixed number of passes, with the error of the masses m that its potentials gave."""
    tolerance = get_solver(solver).tolerance
    if tolerance is not None or balance == 0:
        return solution
    error = marginal_error(m, relaxed_marginal(solution.potentials, epsilon, b, balance))
    return Solution.of(solution.potentials, error, solution.iterations, tolerance)
