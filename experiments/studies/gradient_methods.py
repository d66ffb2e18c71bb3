"""Ways to differentiate L = <c, sin(4 soft)> with respect to weights w and levels q, for the study `gradients`."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from mecq_jax import transport
from mecq_jax.transport import Sinkhorn

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def read_loss(soft: jax.Array, c: jax.Array) -> jax.Array:
    """L = <c, sin(4 soft)>."""
    return jnp.vdot(c, jnp.sin(4 * soft))


def unrolled(c, epsilon, b, count: int) -> Loss:
    """Differentiates through `count` iterations of Sinkhorn from no potentials."""
    solver = Sinkhorn(max_iterations=count, tolerance=None)

    def loss(w, q):
        g = transport.solve(w, q, epsilon, b, solver=solver, init=jnp.zeros_like(q), verify=False).potentials
        return read_loss(q @ transport.probabilities(w, q, g, epsilon), c)

    return loss


def ours(c, epsilon, b, gradient: str) -> Loss:
    """`soft_assign` with its default solver."""
    return lambda w, q: read_loss(transport.soft_assign(w, q, epsilon, b, gradient=gradient).soft, c)


def stopped(c, epsilon, b, step: bool) -> Loss:
    """The exact potentials as constants; with `step`, one differentiated iteration of Sinkhorn from them."""

    def loss(w, q):
        g = transport.solve(jax.lax.stop_gradient(w), jax.lax.stop_gradient(q), epsilon, b).potentials
        if step:
            g = transport.sinkhorn_step(w, q, g, epsilon, b)[0]
        return read_loss(q @ transport.probabilities(w, q, g, epsilon), c)

    return loss


def straight_through(c, epsilon, b) -> Loss:
    """Hard weights forward, dw^/dw = 1 backward."""

    def loss(w, q):
        g = transport.solve(jax.lax.stop_gradient(w), jax.lax.stop_gradient(q), epsilon, b).potentials
        hard = q[transport.hard_codes(w, q, g).astype(jnp.int32)]
        return read_loss(hard + w - jax.lax.stop_gradient(w), c)

    return loss


def ott(c, epsilon, b, svd: bool) -> Loss:
    """ott-jax's implicit differentiation: its default linear solver, or lineax's SVD, which copes with singular K."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import lineax
        from ott.geometry import pointcloud
        from ott.problems.linear import linear_problem
        from ott.solvers.linear import implicit_differentiation, sinkhorn
    options = {"solver_kwargs": {"nonsym_solver": lambda **_: lineax.SVD()}} if svd else {}
    implicit = implicit_differentiation.ImplicitDiff(**options)
    solver = sinkhorn.Sinkhorn(threshold=1e-6, max_iterations=20_000, implicit_diff=implicit)

    def loss(w, q):
        geometry = pointcloud.PointCloud(w[:, None], q[:, None], epsilon=epsilon)
        g = solver(linear_problem.LinearProblem(geometry)).g
        return read_loss(q @ transport.probabilities(w, q, g, epsilon), c)

    return loss


def methods(counts: Sequence[int]) -> dict[str, Callable[..., Loss]]:
    """name -> (c, epsilon, b) -> loss(w, q); `counts` are the iterations that are unrolled."""
    return {
        "implicit (ours)": partial(ours, gradient="implicit"),
        "ott-jax implicit, SVD": partial(ott, svd=True),
        "ott-jax implicit, default": partial(ott, svd=False),
        **{f"unrolled {count}": partial(unrolled, count=count) for count in counts},
        "one step": partial(stopped, step=True),
        "stop-gradient": partial(stopped, step=False),
        "mirror (ours)": partial(ours, gradient="mirror"),
        "straight-through": straight_through,
    }
