"""Quantizers: pure functions of (weights, parameters, state) behind one interface.

A quantizer is a frozen configuration with

    params, state = quantizer.init(w)                             what optax trains; what is carried between steps
    soft, state, info = quantizer.apply(w, params, state, eps)    the weights that the network computes with
    codes = quantizer.codes(w, params, state)                     uint8 [g, n]
    levels = quantizer.levels(params, state)                      float32 [g, k], ascending

so that hardening, packing and the report are the same for all: the shipped weight is levels[codes]. `apply_groups` is
`apply` on groups [g, n] as `grouping` lays them out; every array of params and state has the groups as its first axis,
so that layers whose groups have one size are one call (see `tree`). `MEC` is the method; `LSQ` and `STE` are baselines
and carry the straight-through estimator, which the method does not.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mecq_jax import assignment, transport
from mecq_jax.codebook import Codebook, initial_levels
from mecq_jax.grouping import Granularity, PerTensor, from_groups, to_groups
from mecq_jax.streaming import map_groups

Params = dict[str, Array]
State = dict[str, Array]
PRIORS = ("lloyd_max", "learned")


class Info(NamedTuple):
    """Diagnostics of one application; no gradient but the entropy's. `apply_groups` gives them for each group, [g].

    Attributes:
      entropy: mean entropy of the assignment, nats (0 for a rounding baseline).
      marginal_error: k max_j |beta_j - m_j|; the worst group's.
      converged: share of groups whose solver met its tolerance.
      certain: share of weights with max_j p_ij > 0.99.
      lowest_mass: mass of the emptiest level of any group, times k.
    """

    entropy: Float[Array, "*g"]
    marginal_error: Float[Array, "*g"]
    converged: Float[Array, "*g"]
    certain: Float[Array, "*g"]
    lowest_mass: Float[Array, "*g"]

    def over_groups(self) -> "Info":
        """The diagnostics of a tensor from those of its groups."""
        return Info(
            self.entropy.mean(),
            self.marginal_error.max(),
            self.converged.mean(),
            self.certain.mean(),
            self.lowest_mass.min(),
        )


@runtime_checkable
class Quantizer(Protocol):
    """What `tree`, `layers` and `training` ask of a quantizer (see the module docstring)."""

    @property
    def k(self) -> int: ...
    @property
    def granularity(self) -> Granularity: ...
    def init(self, w: Array) -> tuple[Params, State]: ...
    def apply(self, w: Array, params: Params, state: State, epsilon: Any) -> tuple[Array, State, Info]: ...
    def apply_groups(
        self, groups: Array, params: Params, state: State, epsilon: Any
    ) -> tuple[Array, State, Info]: ...
    def codes(self, w: Array, params: Params, state: State) -> UInt8[Array, "g n"]: ...
    def levels(self, params: Params, state: State) -> Float[Array, "g k"]: ...


class _OnArrays:
    """`apply` by `apply_groups`."""

    k: int
    granularity: Granularity

    def __post_init__(self):
        if not 2 <= self.k <= 16:
            raise ValueError(f"k = {self.k} levels: packing holds 2 to 16 (1 to 4 bits); k = 2**bits, or 3 for ternary")

    def apply_groups(self, groups: Array, params: Params, state: State, epsilon: Any) -> tuple[Array, State, Info]:
        raise TypeError("a quantizer defines apply_groups")

    def apply(
        self, w: Array, params: Params, state: State, epsilon: Float[Array, ""] | float | None = None
    ) -> tuple[Array, State, Info]:
        """The weights that the network computes with, in the shape and type of `w`; the new state; diagnostics.

        `epsilon` is relative to each group's var(w); rounding baselines do not use it.
        """
        soft, state, info = self.apply_groups(to_groups(w, self.granularity), params, state, epsilon)
        return from_groups(soft, w.shape, self.granularity), state, info.over_groups()


def variance(w: Float[Array, " n"], q: Float[Array, " k"]) -> Float[Array, ""]:
    """var(w), the unit of epsilon; at least 1e-3 (q_k - q_1)^2, so that (nearly) constant weights have a unit too."""
    least = 1e-3 * jnp.square(jax.lax.stop_gradient(q[-1] - q[0])) + 1e-12 * jnp.mean(jnp.square(w)) + 1e-30
    return jnp.maximum(w.var(), least)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MEC(_OnArrays):
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
      gradient: 'implicit' or 'mirror' (see `assignment.soft_assign`).
    """

    k: int = 4
    granularity: Granularity = PerTensor()  # noqa: RUF009 (a frozen value)
    codebook: str | Codebook = "lloyd_max"
    prior: Sequence[float] | np.ndarray | str | None = None
    balance: float = 1.0
    solver: str | transport.Solver = transport.Newton(max_iterations=2, tolerance=None)  # noqa: RUF009
    gradient: str = "implicit"

    def __post_init__(self):
        super().__post_init__()
        transport.get_solver(self.solver)
        transport.check_balance(self.balance)
        if isinstance(self.prior, str) and self.prior not in PRIORS:
            raise ValueError(f"prior {self.prior!r} is not one of {PRIORS}, None, or {self.k} masses")
        if self.prior is not None and not isinstance(self.prior, str):
            object.__setattr__(self, "prior", tuple(map(float, transport.check_prior(self.prior, self.k))))
        if self.gradient not in assignment.GRADIENTS:
            raise ValueError(f"gradient {self.gradient!r} is not one of {assignment.GRADIENTS}")

    def masses(self, params: Params, state: State) -> Float[Array, "g k"]:
        """The prior b of each group."""
        if self.prior == "learned":
            return jax.nn.softmax(params["prior"].astype(jnp.float32), axis=-1)
        if self.prior == "lloyd_max":
            return state["prior"]
        given = None if isinstance(self.prior, str) else self.prior
        b = jnp.asarray(transport.check_prior(given, self.k))
        return jnp.broadcast_to(b[None], params["levels"].shape)

    def init(self, w: Array, epsilon: float = 0.3) -> tuple[Params, State]:
        """Levels from the codebook; potentials solved to the end at epsilon var(w), so that training starts warm."""
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        params = {"levels": initial_levels(groups, self.k, self.codebook)}
        state = {}
        if self.prior == "learned":
            params["prior"] = jnp.zeros_like(params["levels"])
        if self.prior == "lloyd_max":
            nearest = map_groups(_nearest_masses, (groups, self.levels(params, {})), groups.shape[1], self.k)
            state["prior"] = nearest
        return params, self.warm_up(w, params, epsilon, state)

    def warm_up(self, w: Array, params: Params, epsilon: float | Array, state: State | None = None) -> State:
        """State with potentials solved from a cold start at epsilon var(w)."""
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        state = {} if state is None else state

        def one_group(w, q, b):
            return transport.solve(w, q, epsilon * variance(w, q), b, balance=self.balance).potentials

        each = (groups, self.levels(params, state), self.masses(params, state))
        return {**state, "potentials": map_groups(one_group, each, groups.shape[1], self.k)}

    def levels(self, params: Params, state: State) -> Float[Array, "g k"]:
        """The levels in ascending order, whatever the optimizer did to them."""
        return jnp.sort(params["levels"].astype(jnp.float32), axis=-1)

    def apply_groups(
        self, groups: Float[Array, "g n"], params: Params, state: State, epsilon: Float[Array, ""] | float
    ) -> tuple[Float[Array, "g n"], State, Info]:
        """Soft weights P.Q of every group; `epsilon` is relative to the group's var(w)."""

        def one_group(w, q, b, g):
            unit = variance(w.astype(jnp.float32), q)
            out = assignment.soft_assign(
                w,
                q,
                epsilon * unit,
                b,
                balance=self.balance,
                solver=self.solver,
                gradient=self.gradient,
                init=g,
            )
            info = Info(
                entropy=out.entropy,
                marginal_error=out.solution.marginal_error,
                converged=out.solution.converged.astype(jnp.float32),
                certain=jax.lax.stop_gradient(out.certain),
                lowest_mass=jax.lax.stop_gradient(out.mass.min() * self.k),
            )
            return out.soft, out.solution.potentials, info

        each = (groups, self.levels(params, state), self.masses(params, state), state["potentials"])
        soft, potentials, info = map_groups(one_group, each, groups.shape[1], self.k)
        return soft, {**state, "potentials": potentials}, info

    def codes(self, w: Array, params: Params, state: State) -> UInt8[Array, "g n"]:
        """The most probable level of each weight at the state's potentials."""
        groups = to_groups(w, self.granularity)
        return jax.vmap(assignment.hard_codes)(groups, self.levels(params, state), state["potentials"])


def _nearest_masses(w: Float[Array, " n"], q: Float[Array, " k"]) -> Float[Array, " k"]:
    """The share of weights nearest to each level; at least 1e-3 of a uniform share, so that no level dies."""
    share = assignment.occupancy(assignment.hard_codes(w, q, jnp.zeros_like(q)), q.shape[0])
    share = jnp.maximum(share, 1e-3 / q.shape[0])
    return share / share.sum()


def _rounded_info(codes, k):
    zero = jnp.zeros(codes.shape[0], jnp.float32)
    lowest = jax.vmap(lambda c: assignment.occupancy(c, k))(codes).min(axis=1) * k
    return Info(zero, zero, zero + 1, zero + 1, lowest)


def _round_through(x: Array) -> Array:
    """round(x) with the derivative of x: the straight-through estimator."""
    return x + jax.lax.stop_gradient(jnp.round(x) - x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LSQ(_OnArrays):
    """Learned step size: w^ = s round(clip(w / s, -Qn, Qp)), straight-through, step s learnt per group.

    With k levels Qn = k // 2 and Qp = k - 1 - Qn (k = 4: -2, -1, 0, 1); k = 2 uses the two levels -s/2, s/2. The
    step's gradient is scaled by 1 / sqrt(n max(Qp, 1)) and s starts at 2 mean|w| / sqrt(max(Qp, 1)).
    Source: Esser et al., ICLR 2020, arXiv 1902.08153.

    Attributes:
      k: number of levels.
      granularity: which weights share a step.
    """

    k: int = 4
    granularity: Granularity = PerTensor()  # noqa: RUF009

    @property
    def _offset(self) -> float:
        """The lowest level in steps: level j is s (j + offset)."""
        return -0.5 if self.k == 2 else -float(self.k // 2)

    @property
    def _highest(self) -> int:
        return max(self.k - 1 - self.k // 2, 1)

    def init(self, w: Array) -> tuple[Params, State]:
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        step = 2 * jnp.abs(groups).mean(axis=1) / jnp.sqrt(jnp.float32(self._highest))
        return {"step": jnp.maximum(step, 1e-8)}, {}

    def _step(self, params: Params) -> Float[Array, "g 1"]:
        return jnp.maximum(jnp.abs(params["step"].astype(jnp.float32)), 1e-8)[:, None]

    def levels(self, params: Params, state: State) -> Float[Array, "g k"]:
        return self._step(params) * (jnp.arange(self.k, dtype=jnp.float32) + self._offset)[None]

    def apply_groups(self, groups: Array, params: Params, state: State, epsilon: Any) -> tuple[Array, State, Info]:
        """Rounded weights; `epsilon` is not used."""
        kind, groups = groups.dtype, groups.astype(jnp.float32)
        scale = 1 / jnp.sqrt(jnp.float32(groups.shape[1] * self._highest))
        step = self._step(params)
        # The value is the step's to the bit, so that these weights are levels[codes]; the gradient is scaled.
        step = jax.lax.stop_gradient(step) + (step * scale - jax.lax.stop_gradient(step * scale))
        place = _round_through(jnp.clip(groups / step - self._offset, 0.0, self.k - 1.0))
        codes = jax.lax.stop_gradient(place).astype(jnp.uint8)
        return (step * (place + self._offset)).astype(kind), state, _rounded_info(codes, self.k)

    def codes(self, w: Array, params: Params, state: State) -> UInt8[Array, "g n"]:
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        return jnp.round(jnp.clip(groups / self._step(params) - self._offset, 0.0, self.k - 1.0)).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class STE(_OnArrays):
    """Uniform rounding at the largest magnitude: k levels at the middles of k equal parts of [-a, a], a = max|w|.

    The bound a follows the weights and carries no gradient; the weights' gradient is straight-through.

    Attributes:
      k: number of levels.
      granularity: which weights share a.
    """

    k: int = 4
    granularity: Granularity = PerTensor()  # noqa: RUF009

    def init(self, w: Array) -> tuple[Params, State]:
        return {}, self._bound(to_groups(w, self.granularity))

    def _bound(self, groups: Array) -> State:
        return {"bound": jnp.maximum(jnp.abs(jax.lax.stop_gradient(groups).astype(jnp.float32)).max(axis=1), 1e-30)}

    def _place(self, groups: Array, state: State) -> Array:
        """The level's number, straight-through."""
        step = 2 / self.k * state["bound"][:, None]
        place = groups.astype(jnp.float32) / step + (self.k - 1) / 2
        # Clipped after rounding: every weight is within a, and those of the outer half steps keep their gradient.
        return place + jax.lax.stop_gradient(jnp.clip(jnp.round(place), 0.0, self.k - 1.0) - place)

    def levels(self, params: Params, state: State) -> Float[Array, "g k"]:
        places = jnp.arange(self.k, dtype=jnp.float32) - (self.k - 1) / 2
        return 2 / self.k * state["bound"][:, None] * places[None]

    def apply_groups(self, groups: Array, params: Params, state: State, epsilon: Any) -> tuple[Array, State, Info]:
        """Rounded weights; `epsilon` is not used."""
        state = self._bound(groups)
        place = self._place(groups, state)
        hard = 2 / self.k * state["bound"][:, None] * (place - (self.k - 1) / 2)
        info = _rounded_info(jax.lax.stop_gradient(place).astype(jnp.uint8), self.k)
        return hard.astype(groups.dtype), state, info

    def codes(self, w: Array, params: Params, state: State) -> UInt8[Array, "g n"]:
        return self._place(to_groups(w, self.granularity), state).astype(jnp.uint8)


QUANTIZERS = {"mec": MEC, "lsq": LSQ, "ste": STE}
