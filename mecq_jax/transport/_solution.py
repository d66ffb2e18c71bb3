"""The problem that a solver takes, and the solution that it returns."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mecq_jax.transport._semidual import Scalar, marginal, marginal_error, relaxed_marginal

TOLERANCE = 1e-5  # marginal error at which a solution counts as converged


@dataclasses.dataclass(frozen=True)
class Problem:
    """Transport of one group of weights to levels, in units in which its numbers are of order one.

    Attributes:
      w: weights, [n], float32.
      q: levels, [k], float32, ascending.
      epsilon: entropic regularisation, weight squared.
      b: level masses, [k], sum 1.
      balance: rho in (0, 1].
    """

    w: Float[Array, " n"]
    q: Float[Array, " k"]
    epsilon: Scalar
    b: Float[Array, " k"]
    balance: float

    def error(self, g: Float[Array, " k"]) -> Scalar:
        """The marginal error k max_j |beta_j - m_j(g)|, by one pass over the weights."""
        m = marginal(self.w, self.q, g, self.epsilon)
        return marginal_error(m, relaxed_marginal(g, self.epsilon, self.b, self.balance))


class Solution(NamedTuple):
    """Potentials of the transport of one group, and how well they hold its masses.

    Attributes:
      potentials: g, [k], weight squared, mean zero over the levels of positive mass; far below for the others.
      marginal_error: k max_j |beta_j - m_j(g)| at these potentials (beta = b at balance 1).
      iterations: iterations done.
      converged: whether marginal_error is within the solver's tolerance; with Newton, or within what one rounding of
        the potentials moves the masses by (at epsilon = 1e-4 var(w) a tie of half the weights moves by about 1e-4).

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import solve
      >>> solution = solve(jnp.array([-1.0, -0.9, 0.9, 1.1]), jnp.array([-1.0, 1.0]), 0.1)
      >>> solution.potentials.shape, float(solution.marginal_error) < 1e-4, bool(solution.converged)
      ((2,), True, True)
    """

    potentials: Float[Array, " k"]
    marginal_error: Scalar
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]

    @classmethod
    def of(
        cls, g: Float[Array, " k"], error: Scalar, iterations: Int[Array, ""] | int, tolerance: float | None
    ) -> "Solution":
        """The solution with this error; a solver without a tolerance is held to `TOLERANCE`."""
        within = error <= (TOLERANCE if tolerance is None else tolerance)
        return cls(g, error, jnp.asarray(iterations, jnp.int32), within)
