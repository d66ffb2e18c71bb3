"""The method as a quantizer: maximum-entropy assignment of weights to learnable levels."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mecq_jax import transport
from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._base import Diagnostics, GroupedQuantizer
from mecq_jax.quantizers._levels import Codebook, initial_levels
from mecq_jax.quantizers._types import Codes, Groups, Levels, Params, State, Temperature
from mecq_jax.transport import map_groups

#: What the prior of `MEC` may be by name.
PRIORS = ("lloyd_max", "learned")


def variance(w: Float[Array, " n"], q: Float[Array, " k"]) -> Float[Array, ""]:
    """var(w), the unit of temperature: a quantizer's transport runs at epsilon = temperature var(w).

    At least 1e-3 (q_k - q_1)^2, so that (nearly) constant weights have a unit too.

    Args:
      w: weights of one group, [n], float32.
      q: levels, [k], ascending.

    Returns:
      The variance, weight squared, above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers import variance
      >>> variance(jnp.array([-3.0, 3.0], jnp.float32), jnp.array([-1.0, 1.0], jnp.float32))
      Array(9., dtype=float32)
    """
    least = 1e-3 * jnp.square(jax.lax.stop_gradient(q[-1] - q[0])) + 1e-12 * jnp.mean(jnp.square(w)) + 1e-30
    return jnp.maximum(w.var(), least)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MEC(GroupedQuantizer):
    """Maximum-entropy assignment of weights to learnable levels: the network computes with the expected levels.

        w^_i = sum_j p_ij q_j,   p_ij = softmax_j((g_j - (w_i - q_j)^2) / epsilon),   epsilon = temperature var(w)

    with potentials g at which level j receives its mass, mean_i p_ij = b_j at balance 1 (see
    `mecq_jax.transport.soft_assign`).

    Attributes:
      k: number of levels, 2 to 16, such as 3 for ternary; 2**bits if it is not given, 4 if neither is.
      bits: width of a code, 1 to 4; may be given in the place of k.
      granularity: which weights share levels.
      codebook: where levels start: 'lloyd_max', 'quantile', 'uniform' or a function (w, k) -> levels.
      prior: level masses b, [k], at least 0 with sum 1; None is uniform; 'lloyd_max' takes each group's masses of the
        nearest of its first levels; 'learned' trains them, b = softmax(logits), from uniform.
      balance: rho, how hard the masses are held to the prior: 1 exactly, 0 not at all (differentiable k-means). The
        strength tau = epsilon rho / (1 - rho) falls with the temperature, so that below 1 the masses come free as
        training hardens: at rho = 0.99 a Gaussian's 8 levels end, at temperature 0.003, within 3 % of the error of
        Lloyd-Max.
      solver: what computes the potentials: 'newton', 'sinkhorn', 'ott', or one of those classes with its settings. In
        training two warm Newton steps hold them.
      gradient: 'mirror' or 'implicit' (see `mecq_jax.transport.soft_assign`). Mirror ended 0.6 points above implicit on
        a small CIFAR-10 network at 2 bits and level with it on Fashion-MNIST (experiments/results/arena).

    Raises:
      TypeError: if k, bits or the solver is of the wrong type.
      ValueError: if a field is out of its bounds, or no solver, prior or gradient has that name.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers import MEC
      >>> w, quantizer = jnp.array([[-1.0, -0.4], [0.4, 1.0]], jnp.float32), MEC(bits=1)
      >>> params, state = quantizer.init(w)
      >>> soft, state, diagnostics = quantizer.apply(w, params, state, temperature=0.1)
      >>> quantizer.codes(w, params, state)
      Array([[0, 0, 1, 1]], dtype=uint8)
    """

    codebook: str | Codebook = "lloyd_max"
    prior: Sequence[float] | np.ndarray | str | None = None
    balance: float = 1.0
    solver: str | transport.Solver = transport.Newton(max_iterations=2, tolerance=None)  # noqa: RUF009
    gradient: str = "mirror"

    def __post_init__(self) -> None:
        """Check every field, and make a prior that is an array hashable."""
        super().__post_init__()
        transport.get_solver(self.solver)
        transport.check_balance(self.balance)
        if isinstance(self.prior, str) and self.prior not in PRIORS:
            raise ValueError(f"prior {self.prior!r} is not one of {PRIORS}, None, or {self.k} masses")
        if self.prior is not None and not isinstance(self.prior, str):
            object.__setattr__(self, "prior", tuple(map(float, transport.check_prior(self.prior, self.k))))
        if self.gradient not in transport.GRADIENTS:
            raise ValueError(f"gradient {self.gradient!r} is not one of {transport.GRADIENTS}")

    def masses(self, params: Params, state: State) -> Levels:
        """The prior b of each group, [g, k], with sum 1."""
        if self.prior == "learned":
            return jax.nn.softmax(params["prior"].astype(jnp.float32), axis=-1)
        if self.prior == "lloyd_max":
            return state["prior"]
        given = None if isinstance(self.prior, str) else self.prior
        b = jnp.asarray(transport.check_prior(given, self.k))
        return jnp.broadcast_to(b[None], params["levels"].shape)

    def init(self, w: Array, temperature: float = 0.3) -> tuple[Params, State]:
        """Levels from the codebook; potentials solved to the end at this temperature, so that training starts warm.

        Args:
          w: weights, any shape and floating type.
          temperature: epsilon / var(w) of each group, above 0.

        Returns:
          Parameters `levels`, [g, k] (and `prior`, the logits of a learned prior); state `potentials`, [g, k], weight
          squared (and `prior`, the masses of the prior 'lloyd_max').
        """
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        params = {"levels": initial_levels(groups, self.k, self.codebook)}
        state: State = {}
        if self.prior == "learned":
            params["prior"] = jnp.zeros_like(params["levels"])
        if self.prior == "lloyd_max":
            nearest = map_groups(_nearest_masses, (groups, self.levels(params, {})), groups.shape[1], self.k)
            state["prior"] = nearest
        return params, self.warm_up(w, params, temperature, state)

    def warm_up(self, w: Array, params: Params, temperature: Temperature, state: State | None = None) -> State:
        """The state with potentials solved from a cold start.

        Args:
          w: weights, any shape and floating type.
          params: parameters, as from `init`.
          temperature: epsilon / var(w) of each group, above 0.
          state: state, as from `init`; None where the prior keeps nothing in it.

        Returns:
          The new state.
        """
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        state = {} if state is None else state

        def one_group(w: Float[Array, " n"], q: Float[Array, " k"], b: Float[Array, " k"]) -> Float[Array, " k"]:
            return transport.solve(w, q, temperature * variance(w, q), b, balance=self.balance).potentials

        each = (groups, self.levels(params, state), self.masses(params, state))
        return {**state, "potentials": map_groups(one_group, each, groups.shape[1], self.k)}

    def levels(self, params: Params, state: State) -> Levels:
        """The levels in ascending order, whatever the optimizer did to them."""
        return jnp.sort(params["levels"].astype(jnp.float32), axis=-1)

    def apply_groups(
        self, groups: Groups, params: Params, state: State, temperature: Temperature | None
    ) -> tuple[Groups, State, Diagnostics]:
        """Expected levels of every group, at potentials that go on from the state's."""
        temperature = self._needed(temperature)

        def one_group(
            w: Float[Array, " n"], q: Float[Array, " k"], b: Float[Array, " k"], g: Float[Array, " k"]
        ) -> tuple[Float[Array, " n"], Float[Array, " k"], Diagnostics]:
            unit = variance(w.astype(jnp.float32), q)
            out = transport.soft_assign(
                w, q, temperature * unit, b, balance=self.balance, solver=self.solver, gradient=self.gradient, init=g
            )
            diagnostics = Diagnostics(
                entropy=out.entropy,
                marginal_error=out.solution.marginal_error,
                converged=out.solution.converged.astype(jnp.float32),
                certain_share=jax.lax.stop_gradient(out.certain_share),
                min_level_mass=jax.lax.stop_gradient(out.mass.min() * self.k),
            )
            return out.soft, out.solution.potentials, diagnostics

        each = (groups, self.levels(params, state), self.masses(params, state), state["potentials"])
        soft, potentials, diagnostics = map_groups(one_group, each, groups.shape[1], self.k)
        return soft, {**state, "potentials": potentials}, diagnostics

    def group_codes(self, groups: Groups, params: Params, state: State) -> Codes:
        """The most probable level of each weight at the state's potentials."""
        return jax.vmap(transport.hard_codes)(groups, self.levels(params, state), state["potentials"])


def _nearest_masses(w: Float[Array, " n"], q: Float[Array, " k"]) -> Float[Array, " k"]:
    """The share of weights nearest to each level; at least 1e-3 of a uniform share, so that no level dies."""
    share = transport.occupancy(transport.hard_codes(w, q, jnp.zeros_like(q)), q.shape[0])
    share = jnp.maximum(share, 1e-3 / q.shape[0])
    return share / share.sum()
