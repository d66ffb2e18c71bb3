"""The method as a quantizer: maximum-entropy assignment of weights to learnable levels."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mecq_jax import transport
from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._base import Diagnostics, GroupedQuantizer, Params, State
from mecq_jax.quantizers._levels import Codebook, initial_levels
from mecq_jax.transport import map_groups

PRIORS = ("lloyd_max", "learned")


def variance(w: Float[Array, " n"], q: Float[Array, " k"]) -> Float[Array, ""]:
    """var(w), the unit of epsilon; at least 1e-3 (q_k - q_1)^2, so that (nearly) constant weights have a unit too."""
    least = 1e-3 * jnp.square(jax.lax.stop_gradient(q[-1] - q[0])) + 1e-12 * jnp.mean(jnp.square(w)) + 1e-30
    return jnp.maximum(w.var(), least)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MEC(GroupedQuantizer):
    """Maximum-entropy assignment to learnable levels (see `assignment`).

    Attributes:
      k: number of levels, 2**bits (2, 4, 8, 16), or any in between such as 3 for ternary.
      granularity: which weights share a codebook.
      codebook: where levels start: 'lloyd_max', 'quantile', 'uniform' or a function.
      prior: level masses b, at least 0 with sum 1; None is uniform; 'lloyd_max' takes each group's masses of the
        nearest of its first levels; 'learned' trains them, b = softmax(logits), from uniform.
      balance: rho, how hard the masses are held to the prior: 1 exactly, 0 not at all (differentiable k-means). The
        strength tau = epsilon rho / (1 - rho) falls with epsilon, so that below 1 the masses come free as training
        hardens: at rho = 0.99 a Gaussian's 8 levels end, at epsilon = 0.003, within 3 % of Lloyd-Max's error.
      solver: how potentials are found; in training two warm Newton steps hold them.
      gradient: 'mirror' or 'implicit' (see `assignment.soft_assign`). Mirror ended 0.6 points above implicit on a small
        CIFAR-10 network at 2 bits and level with it on Fashion-MNIST (experiments/results/arena).
    """

    codebook: str | Codebook = "lloyd_max"
    prior: Sequence[float] | np.ndarray | str | None = None
    balance: float = 1.0
    solver: str | transport.Solver = transport.Newton(max_iterations=2, tolerance=None)  # noqa: RUF009
    gradient: str = "mirror"

    def __post_init__(self, bits: int | None) -> None:
        super().__post_init__(bits)
        transport.get_solver(self.solver)
        transport.check_balance(self.balance)
        if isinstance(self.prior, str) and self.prior not in PRIORS:
            raise ValueError(f"prior {self.prior!r} is not one of {PRIORS}, None, or {self.k} masses")
        if self.prior is not None and not isinstance(self.prior, str):
            object.__setattr__(self, "prior", tuple(map(float, transport.check_prior(self.prior, self.k))))
        if self.gradient not in transport.GRADIENTS:
            raise ValueError(f"gradient {self.gradient!r} is not one of {transport.GRADIENTS}")

    def masses(self, params: Params, state: State) -> Float[Array, "g k"]:
        """The prior b of each group."""
        if self.prior == "learned":
            return jax.nn.softmax(params["prior"].astype(jnp.float32), axis=-1)
        if self.prior == "lloyd_max":
            return state["prior"]
        given = None if isinstance(self.prior, str) else self.prior
        b = jnp.asarray(transport.check_prior(given, self.k))
        return jnp.broadcast_to(b[None], params["levels"].shape)

    def init(self, w: Array, temperature: float = 0.3) -> tuple[Params, State]:
        """Levels from the codebook; potentials solved to the end at this temperature, so that training starts warm."""
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        params = {"levels": initial_levels(groups, self.k, self.codebook)}
        state = {}
        if self.prior == "learned":
            params["prior"] = jnp.zeros_like(params["levels"])
        if self.prior == "lloyd_max":
            nearest = map_groups(_nearest_masses, (groups, self.levels(params, {})), groups.shape[1], self.k)
            state["prior"] = nearest
        return params, self.warm_up(w, params, temperature, state)

    def warm_up(self, w: Array, params: Params, temperature: float | Array, state: State | None = None) -> State:
        """State with potentials solved from a cold start at this temperature."""
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        state = {} if state is None else state

        def one_group(w, q, b):
            return transport.solve(w, q, temperature * variance(w, q), b, balance=self.balance).potentials

        each = (groups, self.levels(params, state), self.masses(params, state))
        return {**state, "potentials": map_groups(one_group, each, groups.shape[1], self.k)}

    def levels(self, params: Params, state: State) -> Float[Array, "g k"]:
        """The levels in ascending order, whatever the optimizer did to them."""
        return jnp.sort(params["levels"].astype(jnp.float32), axis=-1)

    def apply_groups(
        self, groups: Float[Array, "g n"], params: Params, state: State, temperature: Float[Array, ""] | float
    ) -> tuple[Float[Array, "g n"], State, Diagnostics]:
        """Soft weights P.Q of every group; `temperature` is epsilon / var(w) of the group."""

        def one_group(w, q, b, g):
            unit = variance(w.astype(jnp.float32), q)
            out = transport.soft_assign(
                w, q, temperature * unit, b, balance=self.balance, solver=self.solver, gradient=self.gradient, init=g
            )
            info = Diagnostics(
                entropy=out.entropy,
                marginal_error=out.solution.marginal_error,
                converged=out.solution.converged.astype(jnp.float32),
                certain_share=jax.lax.stop_gradient(out.certain_share),
                min_level_mass=jax.lax.stop_gradient(out.mass.min() * self.k),
            )
            return out.soft, out.solution.potentials, info

        each = (groups, self.levels(params, state), self.masses(params, state), state["potentials"])
        soft, potentials, info = map_groups(one_group, each, groups.shape[1], self.k)
        return soft, {**state, "potentials": potentials}, info

    def group_codes(self, groups: Float[Array, "g n"], params: Params, state: State) -> UInt8[Array, "g n"]:
        """The most probable level of each weight at the state's potentials."""
        return jax.vmap(transport.hard_codes)(groups, self.levels(params, state), state["potentials"])


def _nearest_masses(w: Float[Array, " n"], q: Float[Array, " k"]) -> Float[Array, " k"]:
    """The share of weights nearest to each level; at least 1e-3 of a uniform share, so that no level dies."""
    share = transport.occupancy(transport.hard_codes(w, q, jnp.zeros_like(q)), q.shape[0])
    share = jnp.maximum(share, 1e-3 / q.shape[0])
    return share / share.sum()
