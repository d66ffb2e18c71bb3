"""An ablation of the method: hard weights forward, soft gradient backward."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from mecq_jax.quantizers._base import Diagnostics, Params, State
from mecq_jax.quantizers._mec import MEC
from mecq_jax.quantizers._straight_through import straight_through


@dataclasses.dataclass(frozen=True, kw_only=True)
class HardForward(MEC):
    """An ablation of the method: forward through the most probable levels, backward through the soft assignment."""

    def apply_groups(
        self, groups: Array, params: Params, state: State, temperature: Any
    ) -> tuple[Array, State, Diagnostics]:
        soft, state, info = super().apply_groups(groups, params, state, temperature)
        codes = self.group_codes(groups, params, state)
        hard = jnp.take_along_axis(self.levels(params, state), codes.astype(jnp.int32), axis=1)
        return straight_through(hard.astype(groups.dtype), soft), state, info
