"""Soft and hard assignment of weights to levels, with the gradient of the transport by the implicit function theorem.

    soft, entropy = soft_assign(w, q, epsilon)          soft_i = sum_j p_ij q_j,   H_i = -sum_j p_ij log p_ij
    codes = hard_codes(w, q, potentials)                codes_i = argmax_j p_ij

The potentials are where m(g; w, q, epsilon) = b. With v = dL/dg at fixed w, q, epsilon and K/epsilon = dm/dg:

    (K / epsilon) u = v on {sum u = 0};    dL/dw += -u^T dm/dw,   dL/dq += -u^T dm/dq,   dL/db += u

Nothing of size n x k is kept for the backward pass: it recomputes p from w, q and g.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from mecq_jax import semidual, transport

Scalar = Float[Array, ""]
Gradient = Literal["implicit", "mirror"]
GRADIENTS = ("implicit", "mirror")


class Assignment(NamedTuple):
    """A soft assignment.

    Attributes:
      soft: barycentric projection w^, [n], in the type of w.
      entropy: mean over weights of H_i, nats; differentiable.
      certain: share of weights with max_j p_ij > 0.99.
      mass: m_j, [k]: the mass that each level received; no gradient.
      solution: what the solver found; carries no gradient.
    """

    soft: Float[Array, " n"]
    entropy: Scalar
    certain: Scalar
    mass: Float[Array, " k"]
    solution: transport.Solution


@jax.custom_vjp
def implicit_potentials(
    g: Float[Array, " k"], w: Float[Array, " n"], q: Float[Array, " k"], epsilon: Scalar, b: Float[Array, " k"]
) -> Float[Array, " k"]:
    """g itself, with the derivative that the solution of m(g; w, q, epsilon) = b has in w, q, epsilon and b.

    Reverse mode only (a `jax.custom_vjp`): forward mode raises JAX's own TypeError. Reverse over reverse works.
    """
    return g


def _implicit_forward(g, w, q, epsilon, b):
    # The residual is itself implicit, so that the backward pass can be differentiated again.
    g = implicit_potentials(g, w, q, epsilon, b)
    return g, (g, w, q, epsilon, b)


def _implicit_backward(residuals, v):
    g, w, q, epsilon, _ = residuals
    _, links = semidual.marginal_and_links(w, q, g, epsilon)
    u = epsilon * semidual.from_gaps(semidual.solve_links(links, v, rounding=1e-7))
    _, pullback = jax.vjp(lambda w, q, epsilon: _project(semidual.logits(w, q, g, epsilon), u).mean(), w, q, epsilon)
    pulled = pullback(-jnp.ones((), jnp.float32))
    return jnp.zeros_like(g), *pulled, u


def _project(l: Float[Array, "k n"], x: Float[Array, " k"]) -> Float[Array, " n"]:
    """sum_j p_ij x_j for p = softmax(l), as x_top + sum_j p_ij (x_j - x_top) with top the most probable level.

    The same number; but its derivative in l is then exact where p_top rounds to 1, instead of a difference of equals.
    """
    top = jax.lax.stop_gradient(x[l.argmax(axis=0)])
    return top + jnp.sum(jax.nn.softmax(l, axis=0) * (x[:, None] - top[None, :]), axis=0)


@jax.custom_jvp
def _entropy(l: Float[Array, "k n"]) -> Float[Array, " n"]:
    """H_i = logsumexp(l_i) - sum_j p_ij l_ij, with dH = -sum_j p_ij (l_ij - sum_m p_im l_im) dl_ij.

    p log p, differentiated, would be NaN where p underflows.
    """
    l = l - l.max(axis=0)[None, :]
    return jnp.log(jnp.sum(jnp.exp(l), axis=0)) - jnp.sum(jax.nn.softmax(l, axis=0) * l, axis=0)


@_entropy.defjvp
def _entropy_jvp(primals, tangents):
    (l,), (dl,) = primals, tangents
    p = jax.nn.softmax(l, axis=0)
    # The shift by the largest logit changes nothing but the rounding, so that it needs no derivative.
    l_shifted = l - jax.lax.stop_gradient(l.max(axis=0))[None, :]
    centred = l_shifted - jnp.sum(p * l_shifted, axis=0)[None, :]
    return _entropy(l), -jnp.sum(p * centred * dl, axis=0)


implicit_potentials.defvjp(_implicit_forward, _implicit_backward)


@jax.checkpoint
def _readout(w, q, g, epsilon):
    """Soft weights, mean entropy, share of certain weights, masses; p is recomputed in the backward pass."""
    l = semidual.logits(w, q, g, epsilon)
    p = jax.lax.stop_gradient(jax.nn.softmax(l, axis=0))
    certain = jnp.mean((p.max(axis=0) > 0.99).astype(jnp.float32))
    return _project(l, q), _entropy(l).mean(), certain, p.mean(axis=1)


def soft_assign(
    w: Float[Array, " n"],
    q: Float[Array, " k"],
    epsilon: Scalar | float,
    b: Float[Array, " k"] | None = None,
    *,
    solver: str | transport.Solver = "newton",
    gradient: Gradient = "implicit",
    init: Float[Array, " k"] | None = None,
) -> Assignment:
    """Assign each weight softly to the levels by maximum-entropy transport (equations above).

    Args:
      w: weights of one group; vmap over groups.
      q: levels, ascending.
      epsilon: entropic regularisation, in weight squared, above 0.
      b: level masses, positive with sum 1; None is uniform.
      solver: see `transport.solve`.
      gradient: 'implicit', the derivative of w^ through the transport; or 'mirror', where dw^/dw is left out of the
        weight's gradient (dL/dw = dL/dw^) and kept for q: mirror descent on the soft assignment. The entropy has its
        true gradient in both.
      init: potentials to start the solver from.

    Returns:
      An `Assignment`; float32 inside, `soft` in the type of `w`.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient {gradient!r} is not one of {GRADIENTS}")
    k = q.shape[0]
    b = jnp.full(k, 1 / k, jnp.float32) if b is None else jnp.asarray(b, jnp.float32)
    x, q, epsilon = w.astype(jnp.float32), q.astype(jnp.float32), jnp.asarray(epsilon, jnp.float32)
    solution = jax.tree.map(
        jax.lax.stop_gradient,
        transport.solve(*map(jax.lax.stop_gradient, (x, q, epsilon, b)), solver=solver, init=init),
    )

    def assign(x, epsilon):
        g = implicit_potentials(solution.potentials, x, q, epsilon, b)
        return _readout(x, q, g, epsilon)

    soft, entropy, certain, mass = assign(x, epsilon)
    if gradient == "mirror":
        still = jax.lax.stop_gradient(x)
        soft = assign(still, jax.lax.stop_gradient(epsilon))[0] + (x - still)
    return Assignment(soft.astype(w.dtype), entropy, certain, mass, solution)


def thresholds(q: Float[Array, " k"], g: Float[Array, " k"]) -> Float[Array, " borders"]:
    """The k - 1 ascending borders of the cells of argmax_j (g_j - (w - q_j)^2).

    Levels i < l are level at t_il = ((q_l^2 - q_i^2) - (g_l - g_i)) / (2 (q_l - q_i)), and a weight has a code above
    j exactly when it exceeds T_j = min_{l > j} max_{i <= j} t_il. A level whose cell is empty has T_{j-1} = T_j.
    """
    gap = q[None, :] - q[:, None]
    rise = g[None, :] - g[:, None]
    # (q_l^2 - q_i^2) / (2 (q_l - q_i)) is the midpoint; equal levels are told apart by their potentials alone.
    middle = (q[None, :] + q[:, None]) / 2
    apart = middle - rise / (2 * jnp.where(gap == 0, 1.0, gap))
    t = jnp.where(gap == 0, jnp.where(rise > 0, -jnp.inf, jnp.inf), apart)
    k = q.shape[0]
    index = jnp.arange(k)
    lower = index[:, None, None] <= index[None, None, : k - 1]
    upper = index[None, :, None] > index[None, None, : k - 1]
    highest = jnp.max(jnp.where(lower, t[:, :, None], -jnp.inf), axis=0)
    return jnp.min(jnp.where(upper[0], highest, jnp.inf), axis=0)


def hard_codes(w: Float[Array, " n"], q: Float[Array, " k"], g: Float[Array, " k"]) -> UInt8[Array, " n"]:
    """argmax_j p_ij for each weight, by the thresholds: k comparisons a weight and no array of size n x k.

    A weight on a border takes the lower level.
    """
    borders = thresholds(q.astype(jnp.float32), g.astype(jnp.float32))
    return jnp.searchsorted(borders, w.astype(jnp.float32), side="left", method="compare_all").astype(jnp.uint8)


def occupancy(codes: UInt8[Array, " n"], k: int) -> Float[Array, " k"]:
    """The share of weights that take each level."""
    counts: Int[Array, " k"] = jnp.zeros(k, jnp.int32).at[codes.astype(jnp.int32)].add(1)
    return counts.astype(jnp.float32) / codes.shape[0]
