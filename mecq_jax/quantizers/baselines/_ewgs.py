"""Element-wise gradient scaling in the place of the straight-through estimator."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._types import Codes, Groups, Params, State
from mecq_jax.quantizers.baselines._uniform import Uniform, fitted_scale, spread


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def scaled_round(x: Groups, delta: float) -> Groups:
    """round(x) whose derivative scales each cotangent c by 1 + delta sign(c) (x - round(x)); x counts levels."""
    return jnp.round(x)


def _scaled_round_forward(x: Groups, delta: float) -> tuple[Groups, Groups]:
    """The value, and what rounding took off."""
    return jnp.round(x), x - jnp.round(x)


def _scaled_round_backward(delta: float, off: Groups, c: Groups) -> tuple[Groups]:
    """The scaled cotangent."""
    return (c * (1 + delta * jnp.sign(c) * off),)


scaled_round.defvjp(_scaled_round_forward, _scaled_round_backward)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EWGS(Uniform):
    """Element-wise gradient scaling: rounding between learnt bounds, its cotangents scaled one by one.

        w^ = a (2 x_q - 1),   x_q = round((k - 1) x) / (k - 1),   x = clip((w - l) / (u - l), 0, 1)
        dL/dx = c (1 + delta sign(c) (x - x_q)),   c = dL/dx_q

    l and u start at -3 and 3 standard deviations (k = 2: -1 and 1), a at the scale of least squared error; all three
    are learnt. delta is fixed, as in the authors' ablation.

    Attributes:
      k: number of levels, 2 to 16; 2**bits if it is not given, 4 if neither is.
      bits: width of a code, 1 to 4; may be given in the place of k.
      granularity: which weights share l, u and a.
      delta: strength of the scaling, in units of the range u - l as published; 0 is straight-through.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers.baselines import EWGS
      >>> w, quantizer = jnp.array([[-1.0, -0.4], [0.4, 1.0]], jnp.float32), EWGS(bits=1)
      >>> params, state = quantizer.init(w)
      >>> hard, state, diagnostics = quantizer.apply(w, params, state)
      >>> quantizer.codes(w, params, state), sorted(params)
      (Array([[0, 0, 1, 1]], dtype=uint8), ['lower', 'scale', 'upper'])

    Source: Lee, Kim and Ham, CVPR 2021, arXiv 2104.00903.
    """

    delta: float = 0.1

    def init(self, w: Array) -> tuple[Params, State]:
        """Parameters `lower`, `upper` and `scale` (l, u and a), [g]; no state."""
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        bound = (3.0 if self.k > 2 else 1.0) * jnp.maximum(groups.std(axis=1), 1e-8)
        params = {"lower": -bound, "upper": bound}
        shape = 2 * jnp.round(self._place(groups, params)) / (self.k - 1) - 1
        return params | {"scale": fitted_scale(groups, shape)}, {}

    def _place(self, groups: Groups, params: Params) -> Groups:
        """(k - 1) x: the weights in levels above the lowest."""
        lower, upper = (params[name].astype(jnp.float32)[:, None] for name in ("lower", "upper"))
        return (self.k - 1) * jnp.clip((groups - lower) / jnp.maximum(upper - lower, 1e-8), 0.0, 1.0)

    def _hard(self, codes: Integer[Array, "#g n"], params: Params, state: State) -> Groups:
        return jnp.abs(params["scale"].astype(jnp.float32))[:, None] * spread(codes, self.k)

    def group_codes(self, groups: Groups, params: Params, state: State) -> Codes:
        """round((k - 1) x)."""
        return jnp.round(self._place(groups, params)).astype(jnp.uint8)

    def _surrogate(self, groups: Groups, params: Params, state: State, hard: Groups) -> Groups:
        place = scaled_round(self._place(groups, params), self.delta / (self.k - 1))
        return jnp.abs(params["scale"].astype(jnp.float32))[:, None] * (2 * place / (self.k - 1) - 1)
