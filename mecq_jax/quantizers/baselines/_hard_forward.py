"""An ablation of the method: hard weights forward, soft gradient backward."""

import dataclasses

import jax.numpy as jnp

from mecq_jax.quantizers._base import Diagnostics
from mecq_jax.quantizers._mec import MEC
from mecq_jax.quantizers._straight_through import straight_through
from mecq_jax.quantizers._types import Groups, Params, State, Temperature


@dataclasses.dataclass(frozen=True, kw_only=True)
class HardForward(MEC):
    """An ablation of the method: forward through the most probable levels, backward through the soft assignment.

    Attributes are those of `mecq_jax.quantizers.MEC`.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.quantizers.baselines import HardForward
      >>> w, quantizer = jnp.array([[-1.0, -0.4], [0.4, 1.0]], jnp.float32), HardForward(bits=1)
      >>> params, state = quantizer.init(w)
      >>> hard, state, diagnostics = quantizer.apply(w, params, state, temperature=0.1)
      >>> len(set(hard.ravel().tolist()))  # four weights, two values
      2
      >>> quantizer.codes(w, params, state)
      Array([[0, 0, 1, 1]], dtype=uint8)
    """

    def apply_groups(
        self, groups: Groups, params: Params, state: State, temperature: Temperature | None
    ) -> tuple[Groups, State, Diagnostics]:
        """levels[codes], with the derivative of the expected levels."""
        soft, state, diagnostics = super().apply_groups(groups, params, state, temperature)
        codes = self.group_codes(groups, params, state)
        hard = jnp.take_along_axis(self.levels(params, state), codes.astype(jnp.int32), axis=1)
        return straight_through(hard.astype(groups.dtype), soft), state, diagnostics
