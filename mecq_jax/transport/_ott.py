"""The Sinkhorn solver of ott-jax behind the signature of this package's solvers."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mecq_jax.transport._initial_potentials import exclude
from mecq_jax.transport._solution import Problem, Solution


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ott:
    """Sinkhorn's iteration by ott-jax, on its `PointCloud`: for reference and studies, with n x k memory.

    Attributes:
      max_iterations: bound on the iterations, a multiple of 10.
      tolerance: L1 error of the column sums at which ott-jax stops, and marginal error below which `converged` holds.
      momentum: start ott-jax's adaptive over-relaxation at this iteration; None is plain Sinkhorn. At small epsilon it
        saves nine iterations of ten.

    Example:
      >>> from mecq_jax.transport import Ott, get_solver
      >>> get_solver(Ott(max_iterations=500, momentum=100)).max_iterations
      500

    Source: Cuturi et al., 2022, "Optimal Transport Tools (OTT)", arXiv 2201.12324.
    """

    max_iterations: int = 2000
    tolerance: float = 1e-5
    momentum: int | None = None

    def run(self, problem: Problem, g: Float[Array, " k"], verify: bool = True) -> Solution:
        """Solve a problem of balance above 0 from the start `g`; its error is always evaluated."""
        # Imported here: ott-jax takes seconds to load, warns of its dependencies, and only this solver needs it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from ott.geometry import pointcloud
            from ott.problems.linear import linear_problem
            from ott.solvers.linear import acceleration, sinkhorn

        p = problem
        geometry = pointcloud.PointCloud(p.w[:, None], p.q[:, None], epsilon=p.epsilon)
        linear = linear_problem.LinearProblem(geometry, b=p.b, tau_b=p.balance)
        momentum = None if self.momentum is None else acceleration.Momentum(start=self.momentum)  # type: ignore[call-arg]
        solver = sinkhorn.Sinkhorn(threshold=self.tolerance, max_iterations=self.max_iterations, momentum=momentum)
        # ott-jax relies on implicit promotion; a caller's strict settings are for the caller's code.
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            out = solver(linear, init=(jnp.zeros_like(p.w), jnp.where(p.b > 0, g, -jnp.inf)))
        g = exclude(jnp.where(p.b > 0, out.g, 0.0), p.w, p.q, p.epsilon, p.b)
        return Solution.of(g, problem.error(g), out.n_iters, self.tolerance)
