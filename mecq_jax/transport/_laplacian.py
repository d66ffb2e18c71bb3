"""The Hessian of the semi-dual as the Laplacian of a graph of levels, solved without a subtraction."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Factorisations of at most this many steps are unrolled into plain arithmetic, which XLA fuses.
UNROLLED = 8
T = TypeVar("T")
Index = int | Int[Array, ""]
Elimination = tuple[Float[Array, "k k"], Float[Array, "3 k"], Float[Array, " k"]]


def hessian_links(links: Float[Array, "k k"], beta: Float[Array, " k"], balance: float) -> Float[Array, "k k"]:
    """The links whose Laplacian is -epsilon hess F: those of p, and those of beta times epsilon / tau.

    diag(m) - mean p p^T is the Laplacian of the graph of levels with links mean_i p_ij p_il, j != l; likewise
    diag(beta) - beta beta^T. Kept as links, all positive, it loses nothing to cancellation.
    """
    if balance < 1:
        links = links + ((1 - balance) / balance) * beta[:, None] * beta[None, :]
    return links * (1 - jnp.eye(links.shape[0], dtype=links.dtype))


def centre(g: Float[Array, " k"], b: Float[Array, " k"]) -> Float[Array, " k"]:
    """Potentials less their mean over the levels of positive mass."""
    active = (b > 0).astype(g.dtype)
    return g - jnp.sum(jnp.where(b > 0, g, 0.0)) / active.sum()


def solve_laplacian(
    links: Float[Array, "k k"],
    rhs: Float[Array, " k"],
    b: Float[Array, " k"],
    *,
    noise: Float[Array, " k"],
    cut_noise: Float[Array, " k"] | None = None,
    max_step: Float[Array, " k"] | None = None,
) -> Float[Array, " k"]:
    """The solution u of a Laplacian system between levels, by an elimination that subtracts nothing.

        sum_l links_jl (u_j - u_l) = rhs_j - mean(rhs)

    L D L^T by eliminating level after level from the graph (Grassmann, Taksar and Heyman, 1985, Operations Research
    33(5)): the links of a level are handed to its neighbours, links_jl += links_ji links_il / sum_l links_il.
    Nothing is subtracted, so weakly linked levels and levels of tiny mass keep their relative precision, and the null
    space needs no care. Plain arithmetic, which batches and fuses, where a call of the LAPACK or cuSOLVER kind costs
    more than the pass over the weights.

    Args:
      links: `hessian_links`, [k, k], at least 0, diagonal 0.
      rhs: right-hand side, [k].
      b: level masses, [k].
      noise: rounding error of rhs, [k]; what of L^-1 rhs is within its sum is taken for 0, or it
        would be blown up where a cut through the graph has almost no links.
      cut_noise: rounding error of the links, a number for each level: the links D of a cut through the graph are
        weighed against its sum over what the cut parts, by D^2 / (D^2 + cut_noise^2), so that levels which rounding
        alone links are cut off. A derivative across such a cut is rounding.
      max_step: bound on D^-1 L^-1 rhs, each level's move against the levels above it. A bounded direction is an ascent
        direction still, since rhs . u = (L^-1 rhs) . (D^-1 L^-1 rhs).

    Returns:
      u, [k]: mean 0 over the levels of positive mass, and 0 on the others.
    """
    k = rhs.shape[0]
    index = jnp.arange(k)
    start = jnp.where(b > 0, centre(rhs, b), 0.0)
    carried = jnp.stack([start, noise, jnp.zeros_like(rhs) if cut_noise is None else cut_noise])

    def eliminate(i: Index, state: Elimination) -> Elimination:
        a, carried, pivots = state
        row = jnp.where(index > i, a[i], 0.0)
        pivot = row.sum()
        share = row / jnp.maximum(pivot, 1e-30)
        a = a + row[:, None] * share[None, :]
        return a.at[i].set(share), carried + carried[:, i, None] * share[None, :], pivots.at[i].set(pivot)

    state = _repeat(k - 1, eliminate, (links, carried, jnp.zeros_like(rhs)))
    shares, (y, doubt, cut), pivots = state
    y = jnp.sign(y) * jnp.maximum(jnp.abs(y) - doubt, 0.0)
    inverse = 1 / jnp.maximum(pivots, 1e-30)
    if cut_noise is not None:  # one division: XLA would turn two into one by a product that underflows
        inverse = pivots / jnp.maximum(jnp.square(pivots) + jnp.square(cut), 1e-37)
    move = jnp.clip(y * inverse, -1e15, 1e15)
    if max_step is not None:
        move = jnp.clip(move, -max_step, max_step)

    def substitute(i: Index, u: Float[Array, " k"]) -> Float[Array, " k"]:
        i = k - 2 - i
        return u.at[i].set(move[i] + jnp.sum(jnp.where(index > i, shares[i], 0.0) * u))

    u = _repeat(k - 1, substitute, jnp.zeros_like(rhs))
    return jnp.where(b > 0, centre(u, b), 0.0)


def _repeat(times: int, body: Callable[[Index, T], T], state: T) -> T:
    """A fori_loop, unrolled where it is short enough for XLA to fuse."""
    if times <= UNROLLED:
        for i in range(times):
            state = body(i, state)
        return state
    looped: T = jax.lax.fori_loop(0, times, body, state)
    return looped
