"""Damped Newton ascent on the semi-dual: d = (-hess F)^-1 grad F, g <- g + alpha d.

F is concave, so its slope along d falls: a trial point whose slope is more negative than half the first slope has
overshot, and alpha is cut by the secant; every other trial is taken. One pass over the weights an iteration. It ends at
the tolerance or at 2 k times float32's epsilon, below which `solve_laplacian` takes a residual for rounding; or where,
within the resolution of float32 potentials, a pass has not halved the error.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mecq_jax.transport._laplacian import hessian_links, solve_laplacian
from mecq_jax.transport._semidual import EPS32, Scalar, marginal_and_links, marginal_error, relaxed_marginal
from mecq_jax.transport._solution import Problem, Solution


class Search(NamedTuple):
    """State of the ascent: the accepted point, its direction, the trial step along it, and the best point so far."""

    g: Float[Array, " k"]
    direction: Float[Array, " k"]
    slope: Scalar
    alpha: Scalar
    best: Float[Array, " k"]
    error: Scalar
    resolution: Scalar
    stalled: Bool[Array, ""]
    iterations: Int[Array, ""]


def _begin(g: Float[Array, " k"]) -> Search:
    """Before the first pass, which evaluates the start itself: alpha = 0 along no direction."""
    zero = jnp.zeros_like(g)
    infinite = jnp.full((), jnp.inf, jnp.float32)
    none = jnp.zeros((), jnp.int32)
    return Search(g, zero, zero[0], zero[0], g, infinite, zero[0], none > 0, none)


def _stepper(problem: Problem) -> Callable[[Search], Search]:
    """The function Search -> Search of one pass over the weights."""
    w, q, epsilon, b, balance = problem.w, problem.q, problem.epsilon, problem.b, problem.balance
    tau = jnp.inf if balance == 1 else epsilon * (balance / (1 - balance))
    # No border moves further than a standard deviation a step, and no mass of beta changes by more than e^4.
    max_step = jnp.minimum(2 * jnp.append(jnp.diff(q), 0.0), 4 * tau) + 4 * epsilon
    steps = jnp.square(jnp.diff(q)) / 4
    border = jnp.maximum(jnp.append(steps, 0.0), jnp.append(0.0, steps))

    def evaluate(g: Float[Array, " k"]) -> tuple[Float[Array, " k"], Float[Array, " k"], Scalar, Scalar]:
        m, links = marginal_and_links(w, q, g, epsilon)
        beta = relaxed_marginal(g, epsilon, b, balance)
        links = hessian_links(links, beta, balance)
        noise = EPS32 * jnp.maximum(m, beta)
        direction = epsilon * solve_laplacian(links, beta - m, b, noise=noise, max_step=max_step / epsilon)
        # What a rounding of g_j and of the costs at its borders moves its mass by: better than this cannot be had.
        moved = jnp.max(links.sum(axis=1) * (jnp.abs(g) + border)) / epsilon
        resolution = q.shape[0] * EPS32 * (moved + 4.0)
        return beta - m, direction, marginal_error(m, beta), resolution

    def step(s: Search) -> Search:
        trial = s.g + s.alpha * s.direction
        residual, direction, error, resolution = evaluate(trial)
        slope = residual @ s.direction
        overshot = (slope < -0.5 * s.slope) & (s.alpha > 1e-3)
        secant = s.alpha * jnp.clip(s.slope / jnp.maximum(s.slope - slope, 1e-30), 0.1, 0.6)
        # Steps that had to be cut grow again by doubling: the next direction mostly points as far beyond.
        grown = jnp.where(s.alpha > 0, jnp.minimum(1.0, 2 * s.alpha), 1.0)
        better = error < s.error
        return Search(
            g=jnp.where(overshot, s.g, trial),
            direction=jnp.where(overshot, s.direction, direction),
            slope=jnp.where(overshot, s.slope, residual @ direction),
            alpha=jnp.where(overshot, secant, grown),
            best=jnp.where(better, trial, s.best),
            error=jnp.where(better, error, s.error),
            resolution=jnp.where(better, resolution, s.resolution),
            stalled=(error >= 0.5 * s.error) & (error <= resolution),
            iterations=s.iterations + 1,
        )

    return step


def ascend(
    problem: Problem, g: Float[Array, " k"], max_iterations: int, tolerance: float
) -> tuple[Float[Array, " k"], Scalar, Int[Array, ""], Bool[Array, ""]]:
    """Ascend from the start `g`: (potentials, marginal error, iterations, converged)."""
    step = _stepper(problem)
    tolerance = max(tolerance, 2 * problem.q.shape[0] * EPS32)

    def unfinished(s: Search) -> Bool[Array, ""]:
        return (s.error > tolerance) & ~s.stalled & (s.iterations <= max_iterations)

    s = jax.lax.while_loop(unfinished, step, _begin(g))
    return s.best, s.error, s.iterations - 1, s.error <= jnp.maximum(tolerance, s.resolution)


def steps(problem: Problem, g: Float[Array, " k"], count: int) -> tuple[Float[Array, " k"], Scalar]:
    """Do `count` steps, a pass each: (potentials after them, marginal error before the last)."""
    step = _stepper(problem)
    state = jax.lax.scan(lambda s, _: (step(s), None), _begin(g), None, length=count)[0]
    return state.g + state.alpha * state.direction, state.error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Newton:
    """Damped Newton ascent on the semi-dual F: the default solver.

        g <- g + alpha (-hess F)^-1 grad F,        alpha in (0, 1] by a line search along the slope of F

    One pass over the weights an iteration, like a Sinkhorn iteration; a handful suffice at any epsilon.

    Attributes:
      max_iterations: bound on the passes; from a good warm start two hold the solution in training.
      tolerance: marginal error (share of a uniform level's mass) at which to stop; None does exactly
        `max_iterations`, as in training from a warm start.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import Newton, solve
      >>> w, q = jnp.array([-1.0, -0.5, 0.5, 4.0]), jnp.array([-1.0, 2.0])
      >>> solution = solve(w, q, 0.1, solver=Newton(tolerance=1e-4))
      >>> bool(solution.converged), int(solution.iterations) < 20
      (True, True)
    """

    max_iterations: int = 100
    tolerance: float | None = 1e-5

    def run(self, problem: Problem, g: Float[Array, " k"], verify: bool = True) -> Solution:
        """Solve a problem of balance above 0 from the start `g`.

        Without tolerance and `verify` the solution's error is the one before the last step.
        """
        if self.tolerance is not None:
            return Solution(*ascend(problem, g, self.max_iterations, self.tolerance))
        g, error = steps(problem, g, self.max_iterations)
        return Solution.of(g, problem.error(g) if verify else error, self.max_iterations, self.tolerance)
