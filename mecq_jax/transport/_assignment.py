"""Soft and hard assignment of weights to levels, with the gradient of the transport by the implicit function theorem.

    soft, entropy = soft_assign(w, q, epsilon)          soft_i = sum_j p_ij q_j,   H_i = -sum_j p_ij log p_ij
    codes = hard_codes(w, q, potentials)                codes_i = argmax_j p_ij

The potentials are where beta(g) = m(g; w, q, epsilon) (see `semidual`; beta = b at balance 1). With L the loss, l the
logits, delta_ij = dL/dl_ij at fixed g, and Lap the Laplacian of the links of p (and of beta, epsilon / tau times):

    Lap u = sum_i delta_i,          delta_ij <- delta_ij - p_ij (u_j - sum_l p_il u_l) / n
    dL/dw_i = sum_j delta_ij dl_ij/dw_i,   dL/dq_j = sum_i dL/dw^_i p_ij + delta_ij dl_ij/dq_j,   dL/dlog b = Lap_beta u

Two passes over the weights, which recompute p by blocks: nothing of size n x k is kept or ever whole.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mecq_jax.transport._blockwise import map_reduce_blocks, sum_levels, sum_weights
from mecq_jax.transport._laplacian import hessian_links, solve_laplacian
from mecq_jax.transport._semidual import (
    EPS32,
    Scalar,
    co_occurrence,
    level_softmax,
    marginal,
    marginal_and_links,
    relaxed_marginal,
)
from mecq_jax.transport._solution import Solution
from mecq_jax.transport._solve import Solver, check_balance, solve, verified

GRADIENTS = ("implicit", "mirror")


class Assignment(NamedTuple):
    """A soft assignment.

    Attributes:
      soft: barycentric projection w^, [n], in the type of w.
      entropy: mean over weights of H_i, nats; differentiable.
      certain_share: share of weights with max_j p_ij > 0.99.
      mass: m_j, [k]: the mass that each level received; no gradient.
      solution: what the solver found, with the marginal error of `mass`; carries no gradient.
    """

    soft: Float[Array, " n"]
    entropy: Scalar
    certain_share: Scalar
    mass: Float[Array, " k"]
    solution: Solution


def _pull(p: Float[Array, "k n"], y: Float[Array, "k n"]) -> Float[Array, "k n"]:
    """p_ij (y_ij - sum_l p_il y_il): the cotangent of the logits of sum_j p_ij y_ij.

    The mean is taken off in two rounds, so that what is left holds where p rounds to 1: the first is off by a rounding
    of y, the second by a rounding of that.
    """
    y = y - sum_levels(p * y)[None, :]
    return p * (y - sum_levels(p * y)[None, :])


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def implicit_potentials(
    g: Float[Array, " k"],
    w: Float[Array, " n"],
    q: Float[Array, " k"],
    epsilon: Scalar,
    b: Float[Array, " k"],
    balance: float = 1.0,
) -> Float[Array, " k"]:
    """g itself, with the derivative that the solution of beta(g) = m(g; w, q, epsilon) has in w, q, epsilon and b.

    Reverse mode only (a `jax.custom_vjp`): forward mode raises JAX's own TypeError. Reverse over reverse works.
    """
    return g


def _solve_rounded(links, v, b, beta, size):
    """The Laplacian's solution for v, a float32 sum of terms of `size` in all: what is rounding alone is left out."""
    noise, weak = jax.lax.stop_gradient((4 * EPS32 * size, EPS32 * beta))
    return solve_laplacian(links, v, b, noise=noise, weak=weak)


def _implicit_forward(g, w, q, epsilon, b, balance):
    # The residual is itself implicit, so that the backward pass can be differentiated again.
    return g, (implicit_potentials(g, w, q, epsilon, b, balance), w, q, epsilon, b)


def _implicit_backward(balance, residuals, v):
    g, w, q, epsilon, b = residuals
    if balance == 0:
        return jax.tree.map(jnp.zeros_like, residuals)
    beta = relaxed_marginal(g, epsilon, b, balance)
    _, links = marginal_and_links(w, q, g, epsilon)
    links = hessian_links(links, beta, balance)
    u = epsilon * _solve_rounded(links, v, b, beta, jnp.abs(v))

    def condition(w, q, epsilon, b):
        return u @ (relaxed_marginal(g, epsilon, b, balance) - marginal(w, q, g, epsilon))

    pulled = jax.vjp(condition, w, q, epsilon, b)[1](jnp.ones((), jnp.float32))
    return jnp.zeros_like(g), *pulled


implicit_potentials.defvjp(_implicit_forward, _implicit_backward)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def readout(w, q, g, epsilon, b, balance, gradient):
    """Soft weights, mean entropy, share of certain weights and masses in one pass; g as the solution of w, q, b."""
    return _read(w, q, g, epsilon)[0]


def _read(w, q, g, epsilon):
    """What `readout` says, and the links between levels."""
    middle = q.mean()

    def block(w):
        s = level_softmax(w, q, g, epsilon)
        soft = middle + sum_levels(s.p, q - middle)
        entropy = jnp.log(s.total) - sum_levels(s.p * s.logits)
        certain = (s.total < 1 / 0.99).astype(jnp.float32)  # the largest term of the sum is 1
        return (*sum_weights(jnp.stack([entropy, certain])), co_occurrence(s.p)), (soft,)

    sums, (soft,) = map_reduce_blocks(block, (w,), q.shape[0])
    entropy, certain, links = (x / w.shape[0] for x in sums)
    return (soft, entropy, certain, links.sum(axis=1)), links


def _readout_forward(w, q, g, epsilon, b, balance, gradient):
    g = implicit_potentials(g, w, q, epsilon, b, balance)
    out, links = _read(w, q, g, epsilon)
    return out, (w, q, g, epsilon, b, links)


def _readout_backward(balance, gradient, residuals, cotangents):
    w, q, g, epsilon, b, links = residuals
    d_soft, d_entropy = cotangents[:2]
    n, k = w.shape[0], q.shape[0]
    d_entropy = d_entropy / n
    # The delta_i of a weight sum to 0, so that q may be shifted where it meets them; near 0 it rounds least.
    near = q - q.mean()

    def ways(s, d_soft):
        """y_ij with delta_i = pull(y_i) at fixed g. The mirror form treats the two ways to the loss apart."""
        through_soft, through_entropy = d_soft[None, :] * near[:, None], -d_entropy * s.logits
        return (through_soft + through_entropy,) if gradient == "implicit" else (through_soft, through_entropy)

    def first(w, d_soft):
        s = level_softmax(w, q, g, epsilon)
        deltas = jnp.stack([_pull(s.p, y) for y in ways(s, d_soft)])
        return (sum_weights(deltas), sum_weights(jnp.abs(deltas))), ()

    us = [jnp.zeros_like(q)] * (1 if gradient == "implicit" else 2)
    if balance > 0:
        (sums, sizes), _ = map_reduce_blocks(first, (w, d_soft), k)
        beta = relaxed_marginal(g, epsilon, b, balance)
        links = hessian_links(links, beta, balance)
        us = [_solve_rounded(links, v, b, beta, size) for v, size in zip(sums, sizes, strict=True)]

    def second(w, d_soft):
        s = level_softmax(w, q, g, epsilon)
        deltas = [_pull(s.p, y - u[:, None] / n) for y, u in zip(ways(s, d_soft), us, strict=True)]
        # The mirror form leaves out the way of w and epsilon through the soft weights, and only it.
        delta, kept = sum(deltas[1:], deltas[0]), deltas[-1]
        d_w = 2 / epsilon * sum_levels(kept, near)
        if gradient == "mirror":
            d_w = d_w + d_soft
        d_q = sum_weights(d_soft[None, :] * s.p + delta * (2 / epsilon) * (w[None, :] - q[:, None]))
        return (d_q, -sum_weights(kept * s.logits).sum() / epsilon), (d_w,)

    (d_q, d_epsilon), (d_w,) = map_reduce_blocks(second, (w, d_soft), k)

    if balance == 0:
        return d_w, d_q, jnp.zeros_like(g), d_epsilon, jnp.zeros_like(b)

    def masses(epsilon, b, u):
        return u @ relaxed_marginal(g, epsilon, b, balance)

    d_b = jax.grad(masses, 1)(epsilon, b, sum(us[1:], us[0]))
    return d_w, d_q, jnp.zeros_like(g), d_epsilon + jax.grad(masses)(epsilon, b, us[-1]), d_b


readout.defvjp(_readout_forward, _readout_backward)


def soft_assign(
    w: Float[Array, " n"],
    q: Float[Array, " k"],
    epsilon: Scalar | float,
    b: Float[Array, " k"] | None = None,
    *,
    balance: float = 1.0,
    solver: str | Solver = "newton",
    gradient: str = "implicit",
    init: Float[Array, " k"] | None = None,
) -> Assignment:
    """Assign each weight softly to the levels by maximum-entropy transport (equations above).

    Args:
      w: weights of one group; vmap over groups.
      q: levels, ascending.
      epsilon: entropic regularisation, in weight squared, above 0.
      b: level masses, at least 0 with sum 1; None is uniform.
      balance: rho, from 1 (masses exactly b) to 0 (softmax over distances, differentiable k-means).
      solver: see `transport.solve`.
      gradient: 'implicit', the derivative of w^ through the transport; or 'mirror', where dw^/dw is left out of the
        weight's gradient (dL/dw = dL/dw^) and kept for q: mirror descent on the soft assignment. The entropy has its
        true gradient in both.
      init: potentials to start the solver from.

    Returns:
      An `Assignment`; float32 inside, `soft` in the type of `w`. Differentiable in reverse mode, once and twice, in w,
      q, epsilon and b; forward mode raises JAX's TypeError for a custom_vjp.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient {gradient!r} is not one of {GRADIENTS}")
    balance = check_balance(balance)
    k = q.shape[0]
    b = jnp.full(k, 1 / k, jnp.float32) if b is None else jnp.asarray(b, jnp.float32)
    x, q, epsilon = w.astype(jnp.float32), q.astype(jnp.float32), jnp.asarray(epsilon, jnp.float32)
    still = map(jax.lax.stop_gradient, (x, q, epsilon, b))
    # The readout verifies the result, so that a solver of a fixed number of passes need not.
    solution = solve(*still, balance=balance, solver=solver, init=init, verify=False)
    solution = jax.tree.map(jax.lax.stop_gradient, solution)
    soft, entropy, certain, mass = readout(x, q, solution.potentials, epsilon, b, balance, gradient)
    mass, still_epsilon, still_b = map(jax.lax.stop_gradient, (mass, epsilon, b))
    solution = verified(solution, mass, still_epsilon, still_b, balance, solver)
    return Assignment(soft.astype(w.dtype), entropy, certain, mass, solution)
