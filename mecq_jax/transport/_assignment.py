"""Soft assignment of weights to levels, with the gradient of the transport by the implicit function theorem.

    soft_i = sum_j p_ij q_j,      H_i = -sum_j p_ij log p_ij

The potentials g solve beta(g) = m(g; w, q, epsilon) (see `_semidual`; beta = b at balance 1). With L the loss, l the
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
from mecq_jax.transport._implicit_potentials import Levels, Weights, implicit_potentials, solve_rounded
from mecq_jax.transport._laplacian import hessian_links
from mecq_jax.transport._semidual import LevelSoftmax, Scalar, co_occurrence, level_softmax, relaxed_marginal
from mecq_jax.transport._solution import Solution
from mecq_jax.transport._solve import Solver, check_balance, solve, verified

#: The gradients of `soft_assign` by name.
GRADIENTS = ("implicit", "mirror")

Read = tuple[Weights, Scalar, Scalar, Levels]  # soft weights, mean entropy, share of certain weights, masses
Residuals = tuple[Weights, Levels, Levels, Scalar, Levels, Float[Array, "k k"]]  # w, q, g, epsilon, b, links
PerWay = Float[Array, "ways k"]


class Assignment(NamedTuple):
    """A soft assignment of weights to levels, `soft_assign`'s result.

    Attributes:
      soft: the soft weights w^ (barycentric projection), [n], weight, in the type of w.
      entropy: mean over weights of H_i, nats; differentiable.
      certain_share: share of weights with max_j p_ij > 0.99.
      mass: m_j, [k]: the mass that each level received; no gradient.
      solution: the solver's `Solution`, with the marginal error of `mass`; carries no gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import soft_assign
      >>> assignment = soft_assign(jnp.array([-1.0, -0.9, 0.9, 1.0]), jnp.array([-1.0, 1.0]), 0.1)
      >>> float(assignment.certain_share), assignment.mass.round(2).tolist()
      (1.0, [0.5, 0.5])
    """

    soft: Weights
    entropy: Scalar
    certain_share: Scalar
    mass: Levels
    solution: Solution


def _pull(p: Float[Array, "k n"], y: Float[Array, "k n"]) -> Float[Array, "k n"]:
    """The cotangent p_ij (y_ij - sum_l p_il y_il) of the logits of sum_j p_ij y_ij.

    The mean is taken off in two rounds, so that what is left holds where p rounds to 1: the first is off by a rounding
    of y, the second by a rounding of that.
    """
    y = y - sum_levels(p * y)[None, :]
    return p * (y - sum_levels(p * y)[None, :])


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def readout(w: Weights, q: Levels, g: Levels, epsilon: Scalar, b: Levels, balance: float, gradient: str) -> Read:
    """What a group's potentials say of its weights, by one pass; differentiated as the solution, two more passes.

        w^_i = sum_j p_ij q_j,      H_i = -sum_j p_ij log p_ij,      m_j = mean_i p_ij

    Args:
      w: weights of one group, [n], float32.
      q: levels, [k], weight, ascending.
      g: the solution's potentials, [k], weight squared; no gradient passes to them.
      epsilon: entropic regularisation, weight squared.
      b: level masses, [k], at least 0, sum 1.
      balance: rho, in [0, 1].
      gradient: 'implicit' or 'mirror', as of `soft_assign`.

    Returns:
      (w^, [n]; mean_i H_i, nats; the share of weights with max_j p_ij > 0.99; m, [k]). The last two carry no gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import readout
      >>> w, q, b = jnp.array([-1.0, 0.0, 1.0]), jnp.array([-1.0, 1.0]), jnp.array([0.5, 0.5])
      >>> soft, entropy, certain, mass = readout(w, q, jnp.zeros(2), jnp.float32(0.5), b, 1.0, "implicit")
      >>> float(soft[1]), float(certain) > 0.6, mass.round(2).tolist()
      (0.0, True, [0.5, 0.5])
    """
    return _read(w, q, g, epsilon)[0]


def _read(w: Weights, q: Levels, g: Levels, epsilon: Scalar) -> tuple[Read, Float[Array, "k k"]]:
    """What `readout` returns, and the links between levels."""
    middle = q.mean()

    def block(w: Weights) -> tuple[tuple[Scalar, Scalar, Float[Array, "k k"]], tuple[Weights]]:
        s = level_softmax(w, q, g, epsilon)
        soft = middle + sum_levels(s.p, q - middle)
        entropy = jnp.log(s.total) - sum_levels(s.p * s.logits)
        certain = (s.total < 1 / 0.99).astype(jnp.float32)  # the largest term of the sum is 1
        entropy, certain = sum_weights(jnp.stack([entropy, certain]))
        return (entropy, certain, co_occurrence(s.p)), (soft,)

    sums, (soft,) = map_reduce_blocks(block, (w,), q.shape[0])
    entropy, certain, links = (x / w.shape[0] for x in sums)
    return (soft, entropy, certain, links.sum(axis=1)), links


def _readout_forward(
    w: Weights, q: Levels, g: Levels, epsilon: Scalar, b: Levels, balance: float, gradient: str
) -> tuple[Read, Residuals]:
    g = implicit_potentials(g, w, q, epsilon, b, balance)
    out, links = _read(w, q, g, epsilon)
    return out, (w, q, g, epsilon, b, links)


def _readout_backward(
    balance: float, gradient: str, residuals: Residuals, cotangents: Read
) -> tuple[Weights, Levels, Levels, Scalar, Levels]:
    w, q, g, epsilon, b, links = residuals
    d_soft, d_entropy = cotangents[:2]
    n, k = w.shape[0], q.shape[0]
    d_entropy = d_entropy / n
    # The delta_i of a weight sum to 0, so that q may be shifted where it meets them; near 0 it rounds least.
    near = q - q.mean()

    def ways(s: LevelSoftmax, d_soft: Weights) -> tuple[Float[Array, "k n"], ...]:
        """The y_ij with delta_i = pull(y_i) at fixed g. The mirror form treats the two ways to the loss apart."""
        through_soft, through_entropy = d_soft[None, :] * near[:, None], -d_entropy * s.logits
        return (through_soft + through_entropy,) if gradient == "implicit" else (through_soft, through_entropy)

    def first(w: Weights, d_soft: Weights) -> tuple[tuple[PerWay, PerWay], tuple[()]]:
        s = level_softmax(w, q, g, epsilon)
        deltas = jnp.stack([_pull(s.p, y) for y in ways(s, d_soft)])
        return (sum_weights(deltas), sum_weights(jnp.abs(deltas))), ()

    us = [jnp.zeros_like(q)] * (1 if gradient == "implicit" else 2)
    if balance > 0:
        (sums, sizes), _ = map_reduce_blocks(first, (w, d_soft), k)
        beta = relaxed_marginal(g, epsilon, b, balance)
        links = hessian_links(links, beta, balance)
        us = [solve_rounded(links, v, b, beta, size) for v, size in zip(sums, sizes, strict=True)]

    def second(w: Weights, d_soft: Weights) -> tuple[tuple[Levels, Scalar], tuple[Weights]]:
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

    def masses(epsilon: Scalar, b: Levels, u: Levels) -> Scalar:
        return u @ relaxed_marginal(g, epsilon, b, balance)

    d_b = jax.grad(masses, 1)(epsilon, b, sum(us[1:], us[0]))
    return d_w, d_q, jnp.zeros_like(g), d_epsilon + jax.grad(masses)(epsilon, b, us[-1]), d_b


readout.defvjp(_readout_forward, _readout_backward)


def soft_assign(
    w: Weights,
    q: Levels,
    epsilon: Scalar | float,
    b: Levels | None = None,
    *,
    balance: float = 1.0,
    solver: str | Solver = "newton",
    gradient: str = "implicit",
    init: Levels | None = None,
) -> Assignment:
    """Assign each weight softly to the levels by maximum-entropy transport, differentiably.

        w^_i = sum_j p_ij q_j,      H_i = -sum_j p_ij log p_ij,      p_ij = softmax_j((g_j - (w_i - q_j)^2) / epsilon)

    with the potentials g that `solve` returns.

    Args:
      w: weights of one group, [n], any floating type; vmap over groups.
      q: levels, [k], weight, ascending.
      epsilon: entropic regularisation, weight squared, above 0.
      b: level masses, [k], at least 0 with sum 1; None is uniform.
      balance: rho, from 1 (masses exactly b) to 0 (softmax over distances, differentiable k-means).
      solver: 'newton', 'sinkhorn', 'ott', or one of those classes with its settings.
      gradient: 'implicit', the derivative of w^ through the transport; or 'mirror', where dw^/dw is left out of the
        weight's gradient (dL/dw = dL/dw^) and kept for q: mirror descent on the soft assignment. The entropy has its
        true gradient in both.
      init: potentials to start the solver from, [k], weight squared; None is `cold_start`.

    Returns:
      An `Assignment`; float32 inside, `soft` in the type of `w`. Differentiable in reverse mode, once and twice, in w,
      q, epsilon and b; forward mode raises JAX's TypeError for a custom_vjp.

    Raises:
      ValueError: if the gradient's name, the solver's name or settings, or the balance are not valid.
      TypeError: if the solver is neither a name nor a solver.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.transport import soft_assign
      >>> soft_assign(jnp.array([-1.0, -0.5, 0.5, 4.0]), jnp.array([-1.0, 1.0]), 0.01).soft.round(2).tolist()
      [-1.0, -1.0, 1.0, 1.0]
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
