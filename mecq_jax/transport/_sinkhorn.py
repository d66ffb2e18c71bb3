"""Sinkhorn's iteration on the potentials of the levels: the fixed point of the semi-dual's first-order condition."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mecq_jax.transport._laplacian import centre
from mecq_jax.transport._semidual import Scalar, marginal, marginal_error, relaxed_marginal
from mecq_jax.transport._solution import Problem, Solution


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
    m = marginal(w, q, g, epsilon)
    error = marginal_error(m, relaxed_marginal(g, epsilon, b, balance))
    ratio = jnp.where(b > 0, b, 1.0) / jnp.maximum(jnp.where(b > 0, m, 1.0), 1e-30)
    new = balance * (g + epsilon * jnp.log(ratio))
    return jnp.where(b > 0, centre(new, b), g), error


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

    def run(self, problem: Problem, g: Float[Array, " k"], verify: bool = True) -> Solution:
        """The solution from the start `g`; without `verify` its error is the one before the last iteration."""
        p = problem
        State = tuple[Float[Array, " k"], Scalar, Int[Array, ""]]

        def step(state: State) -> State:
            g, _, iterations = state
            return *sinkhorn_step(p.w, p.q, g, p.epsilon, p.b, p.balance), iterations + 1

        def unfinished(state: State) -> Bool[Array, ""]:
            return (state[1] > tolerance) & (state[2] < self.max_iterations)

        state = (g, jnp.full((), jnp.inf, jnp.float32), jnp.zeros((), jnp.int32))
        tolerance = self.tolerance
        if tolerance is None:
            # A scan, which can be differentiated: the unrolled gradient.
            state = jax.lax.scan(lambda s, _: (step(s), None), state, None, length=self.max_iterations)[0]
        else:
            state = jax.lax.while_loop(unfinished, step, state)
        g, error, iterations = state
        return Solution.of(g, problem.error(g) if verify else error, iterations, self.tolerance)
