"""Rivals that round to equally spaced levels: `STE`, `DoReFa`, `LSQ`, `EWGS`."""

import abc
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from mecq_jax.grouping import to_groups
from mecq_jax.quantizer import Params, State
from mecq_jax.rounding import Groups, Levels, Rounding, through


def _spread(codes: Array, k: int) -> Array:
    """The codes 0 to k - 1 as numbers from -1 to 1."""
    return (2 * codes.astype(jnp.float32) - (k - 1)) / (k - 1)


def fitted_scale(w: Groups, shape: Float[Array, "g n"]) -> Float[Array, " g"]:
    """argmin_a |w - a shape|^2 of each group, at least 1e-8: what a published method leaves to the batch norm behind.

    With it, layers without batch norm and networks that come from float keep their scale.
    """
    dot, square = jnp.sum(w * shape, axis=1), jnp.sum(jnp.square(shape), axis=1)
    return jnp.maximum(dot / jnp.maximum(square, 1e-30), 1e-8)


class Uniform(Rounding):
    """Evenly spaced levels: `_hard` computes them from their numbers, which costs no gather."""

    @abc.abstractmethod
    def _hard(self, codes: Num[Array, "g n"], params: Params, state: State) -> Groups: ...

    def levels(self, params: Params, state: State) -> Levels:
        return self._hard(jnp.arange(self.k)[None], params, state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class STE(Uniform):
    """Uniform rounding at the largest magnitude: k levels at the middles of k equal parts of [-a, a], a = max|w|.

    The bound a follows the weights and carries no gradient; the weights' gradient is straight-through.

    Attributes:
      k: number of levels.
      granularity: which weights share a.
    """

    def init(self, w: Array) -> tuple[Params, State]:
        return {}, self._follow(to_groups(w, self.granularity).astype(jnp.float32), {})

    def _follow(self, groups, state):
        return {"bound": jnp.maximum(jnp.abs(jax.lax.stop_gradient(groups)).max(axis=1), 1e-30)}

    def _hard(self, codes, params, state):
        return 2 / self.k * state["bound"][:, None] * (codes.astype(jnp.float32) - (self.k - 1) / 2)

    def group_codes(self, groups, params, state):
        place = groups / (2 / self.k * state["bound"][:, None]) + (self.k - 1) / 2
        return jnp.clip(jnp.round(place), 0.0, self.k - 1.0).astype(jnp.uint8)

    def _surrogate(self, groups, params, state, hard):
        return groups


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoReFa(Uniform):
    """w^ = a (2 round((k - 1) x) / (k - 1) - 1),  x = tanh(w) / (2 max|tanh(w)|) + 1/2; k = 2: w^ = mean|w| sign(w).

    The derivative leaves out the rounding alone (all of it at k = 2). Published with a = 1 and batch norm behind; here
    a is `fitted_scale` at the start. Source: Zhou et al., 2016, arXiv 1606.06160, equations 7 and 9.

    Attributes:
      k: number of levels.
      granularity: which weights share the maximum.
    """

    def init(self, w: Array) -> tuple[Params, State]:
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        place = jnp.round((self.k - 1) * self._squashed(groups)) / (self.k - 1)
        return {}, self._follow(groups, {"scale": fitted_scale(groups, 2 * place - 1)})

    def _follow(self, groups, state):
        if self.k > 2:
            return state
        return {"scale": jnp.maximum(jnp.abs(jax.lax.stop_gradient(groups)).mean(axis=1), 1e-30)}

    def _squashed(self, groups):
        squashed = jnp.tanh(groups)
        return squashed / (2 * jnp.maximum(jnp.abs(squashed).max(axis=1, keepdims=True), 1e-30)) + 0.5

    def _hard(self, codes, params, state):
        return state["scale"][:, None] * _spread(codes, self.k)

    def group_codes(self, groups, params, state):
        if self.k == 2:
            return (groups >= 0).astype(jnp.uint8)
        return jnp.round((self.k - 1) * self._squashed(groups)).astype(jnp.uint8)

    def _surrogate(self, groups, params, state, hard):
        if self.k == 2:
            return groups
        return state["scale"][:, None] * (2 * self._squashed(groups) - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LSQ(Uniform):
    """Learned step size: w^ = s round(clip(w / s, -Qn, Qp)), straight-through, step s learnt per group.

    With k levels Qn = k // 2 and Qp = k - 1 - Qn (k = 4: -2, -1, 0, 1); k = 2 uses the two levels -s/2, s/2. The
    step's gradient is scaled by 1 / sqrt(n max(Qp, 1)) and s starts at 2 mean|w| / sqrt(max(Qp, 1)).
    Source: Esser et al., ICLR 2020, arXiv 1902.08153.

    Attributes:
      k: number of levels.
      granularity: which weights share a step.
    """

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

    def _hard(self, codes, params, state):
        return self._step(params) * (codes.astype(jnp.float32) + self._offset)

    def _place(self, groups, step):
        return jnp.clip(groups / step - self._offset, 0.0, self.k - 1.0)

    def group_codes(self, groups, params, state):
        return jnp.round(self._place(groups, self._step(params))).astype(jnp.uint8)

    def _surrogate(self, groups, params, state, hard):
        scale = 1 / jnp.sqrt(jnp.float32(groups.shape[1] * self._highest))
        step = self._step(params)
        step = jax.lax.stop_gradient(step) + (step - jax.lax.stop_gradient(step)) * scale
        place = self._place(groups, step)
        return step * (through(jnp.round(place), place) + self._offset)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def scaled_round(x: Array, delta: float) -> Array:
    """round(x) whose derivative scales each cotangent c by 1 + delta sign(c) (x - round(x)); x counts levels."""
    return jnp.round(x)


scaled_round.defvjp(
    lambda x, delta: (jnp.round(x), x - jnp.round(x)), lambda delta, off, c: (c * (1 + delta * jnp.sign(c) * off),)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EWGS(Uniform):
    """Element-wise gradient scaling: w^ = a (2 round((k - 1) x) / (k - 1) - 1),  x = clip((w - l) / (u - l), 0, 1).

    The cotangent of a rounded number is scaled by 1 + delta sign(c) (x_n - x_q), in units of the range as published.
    l and u start at -3 and 3 standard deviations (k = 2: -1 and 1), a at `fitted_scale`; all three are learnt.
    Source: Lee, Kim and Ham, CVPR 2021, arXiv 2104.00903; delta fixed, as in the authors' ablation.

    Attributes:
      k: number of levels.
      granularity: which weights share l, u and a.
      delta: strength of the scaling; 0 is straight-through.
    """

    delta: float = 0.1

    def init(self, w: Array) -> tuple[Params, State]:
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        bound = (3.0 if self.k > 2 else 1.0) * jnp.maximum(groups.std(axis=1), 1e-8)
        params = {"lower": -bound, "upper": bound}
        shape = 2 * jnp.round(self._place(groups, params)) / (self.k - 1) - 1
        return params | {"scale": fitted_scale(groups, shape)}, {}

    def _place(self, groups, params):
        lower, upper = (params[name].astype(jnp.float32)[:, None] for name in ("lower", "upper"))
        return (self.k - 1) * jnp.clip((groups - lower) / jnp.maximum(upper - lower, 1e-8), 0.0, 1.0)

    def _hard(self, codes, params, state):
        return jnp.abs(params["scale"].astype(jnp.float32))[:, None] * _spread(codes, self.k)

    def group_codes(self, groups, params, state):
        return jnp.round(self._place(groups, params)).astype(jnp.uint8)

    def _surrogate(self, groups, params, state, hard):
        place = scaled_round(self._place(groups, params), self.delta / (self.k - 1))
        return jnp.abs(params["scale"].astype(jnp.float32))[:, None] * (2 * place / (self.k - 1) - 1)
