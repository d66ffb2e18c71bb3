"""DoReFa: tanh-squashed weights, rounded to equally spaced levels."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer

from mecq_jax.granularity import to_groups
from mecq_jax.quantizers._types import Codes, Groups, Params, State
from mecq_jax.quantizers.baselines._uniform import Uniform, fitted_scale, spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoReFa(Uniform):
    """DoReFa: rounding of tanh-squashed weights to equally spaced levels, or the scaled sign at k = 2.

        w^ = a (2 round((k - 1) x) / (k - 1) - 1),   x = tanh(w) / (2 max|tanh(w)|) + 1/2
        w^ = mean|w| sign(w)                         at k = 2

    The derivative leaves out the rounding alone (all of it at k = 2). Published with a = 1 and batch norm behind; here
    a is the scale of least squared error at the start, and stays.

    Attributes:
      k: number of levels, 2 to 16; 2**bits if it is not given, 4 if neither is.
      bits: width of a code, 1 to 4; may be given in the place of k.
      granularity: which weights share the maximum and a.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers.baselines import DoReFa
      >>> w, quantizer = jnp.array([[-1.0, -0.4], [0.4, 1.0]], jnp.float32), DoReFa(bits=2)
      >>> params, state = quantizer.init(w)
      >>> hard, state, diagnostics = quantizer.apply(w, params, state)
      >>> quantizer.codes(w, params, state)
      Array([[0, 1, 2, 3]], dtype=uint8)

    Source: Zhou et al., 2016, arXiv 1606.06160, equations 7 and 9.
    """

    def init(self, w: Array) -> tuple[Params, State]:
        """No parameters; the state is the scale a, [g]."""
        groups = to_groups(w, self.granularity).astype(jnp.float32)
        place = jnp.round((self.k - 1) * self._squashed(groups)) / (self.k - 1)
        return {}, self._follow(groups, {"scale": fitted_scale(groups, 2 * place - 1)})

    def _follow(self, groups: Groups, state: State) -> State:
        if self.k > 2:
            return state
        return {"scale": jnp.maximum(jnp.abs(jax.lax.stop_gradient(groups)).mean(axis=1), 1e-30)}

    def _squashed(self, groups: Groups) -> Groups:
        """x, from 0 to 1."""
        squashed = jnp.tanh(groups)
        return squashed / (2 * jnp.maximum(jnp.abs(squashed).max(axis=1, keepdims=True), 1e-30)) + 0.5

    def _hard(self, codes: Integer[Array, "#g n"], params: Params, state: State) -> Groups:
        return state["scale"][:, None] * spread(codes, self.k)

    def group_codes(self, groups: Groups, params: Params, state: State) -> Codes:
        """round((k - 1) x); at k = 2, whether the weight is at least 0."""
        if self.k == 2:
            return (groups >= 0).astype(jnp.uint8)
        return jnp.round((self.k - 1) * self._squashed(groups)).astype(jnp.uint8)

    def _surrogate(self, groups: Groups, params: Params, state: State, hard: Groups) -> Groups:
        if self.k == 2:
            return groups
        return state["scale"][:, None] * (2 * self._squashed(groups) - 1)
