"""The derivative of the solution: potentials as a function of weights, levels, epsilon and masses, never unrolled.

With v the cotangent of g and K = -hess F, the Laplacian of the links of p (and of beta) over epsilon, u solves K u = v
on the potentials of mean 0, and the cotangents of w, q, epsilon and b are those of u . (beta - m) at fixed g and u.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mecq_jax.transport._laplacian import hessian_links, solve_laplacian
from mecq_jax.transport._semidual import EPS32, Scalar, marginal, marginal_and_links, relaxed_marginal

Weights = Float[Array, " n"]
Levels = Float[Array, " k"]  # any number for each level
Inputs = tuple[Levels, Weights, Levels, Scalar, Levels]  # g, w, q, epsilon, b


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def implicit_potentials(g: Levels, w: Weights, q: Levels, epsilon: Scalar, b: Levels, balance: float = 1.0) -> Levels:
    """Potentials that a solver returned, with the derivative of the solution (implicit function theorem).

        beta(g) = m(g; w, q, epsilon)      defines g(w, q, epsilon, b)

    Args:
      g: the solution's potentials, [k], weight squared; no gradient passes to them.
      w: weights of one group, [n], float32.
      q: levels, [k], weight.
      epsilon: entropic regularisation, weight squared.
      b: level masses, [k], at least 0, sum 1.
      balance: rho, in [0, 1].

    Returns:
      g itself. Differentiable in w, q, epsilon and b in reverse mode, once and twice.

    Raises:
      TypeError: by JAX, in forward mode, which a `jax.custom_vjp` does not have.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mecq_jax.transport import implicit_potentials, solve
      >>> w, q, e, b = jnp.array([-1.0, 0.0, 0.0, 3.0]), jnp.array([-1.0, 1.0]), jnp.float32(0.5), jnp.full(2, 0.5)
      >>> g = solve(w, q, e, b).potentials
      >>> jax.grad(lambda w: implicit_potentials(g, w, q, e, b)[0])(w).shape
      (4,)
    """
    return g


def solve_rounded(links: Float[Array, "k k"], v: Levels, b: Levels, beta: Levels, size: Levels) -> Levels:
    """The Laplacian's solution for v, a float32 sum of terms of `size` in all: what is rounding alone is left out."""
    noise, cut_noise = jax.lax.stop_gradient((4 * EPS32 * size, EPS32 * beta))
    return solve_laplacian(links, v, b, noise=noise, cut_noise=cut_noise)


def _implicit_forward(
    g: Levels, w: Weights, q: Levels, epsilon: Scalar, b: Levels, balance: float
) -> tuple[Levels, Inputs]:
    # The residual is itself implicit, so that the backward pass can be differentiated again.
    return g, (implicit_potentials(g, w, q, epsilon, b, balance), w, q, epsilon, b)


def _implicit_backward(balance: float, residuals: Inputs, v: Levels) -> Inputs:
    g, w, q, epsilon, b = residuals
    if balance == 0:
        nothing: Inputs = jax.tree.map(jnp.zeros_like, residuals)
        return nothing
    beta = relaxed_marginal(g, epsilon, b, balance)
    _, links = marginal_and_links(w, q, g, epsilon)
    links = hessian_links(links, beta, balance)
    u = epsilon * solve_rounded(links, v, b, beta, jnp.abs(v))

    def condition(w: Weights, q: Levels, epsilon: Scalar, b: Levels) -> Scalar:
        return u @ (relaxed_marginal(g, epsilon, b, balance) - marginal(w, q, g, epsilon))

    pulled = jax.vjp(condition, w, q, epsilon, b)[1](jnp.ones((), jnp.float32))
    return jnp.zeros_like(g), *pulled


implicit_potentials.defvjp(_implicit_forward, _implicit_backward)
