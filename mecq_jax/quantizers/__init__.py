"""Quantizers: pure functions of (weights, parameters, state) behind one interface.

`MEC` is the method, `mecq_jax.quantizers.baselines` what it is compared with, `get_quantizer` makes each by its name.
What a quantizer keeps for a tensor is two dictionaries of arrays whose first axis is the groups: `Params`, which the
optimizer trains, and `State`, which is carried from step to step. What sharpens as training goes on is `Temperature`,
epsilon / var(w) of each group.

Example:
  >>> import jax.numpy as jnp
  >>> from mecq_jax.quantizers import CODEBOOKS, MEC, PRIORS
  >>> params, state = MEC(bits=1).init(jnp.array([-1.0, -0.4, 0.4, 1.0], jnp.float32))
  >>> params["levels"].shape, state["potentials"].shape
  ((1, 2), (1, 2))
  >>> sorted(CODEBOOKS), sorted(PRIORS)
  (['lloyd_max', 'quantile', 'uniform'], ['learned', 'lloyd_max'])
"""

from mecq_jax.quantizers._base import Diagnostics as Diagnostics
from mecq_jax.quantizers._base import GroupedQuantizer as GroupedQuantizer
from mecq_jax.quantizers._base import Quantizer as Quantizer
from mecq_jax.quantizers._base import init_jitted as init_jitted
from mecq_jax.quantizers._levels import CODEBOOKS as CODEBOOKS
from mecq_jax.quantizers._levels import Codebook as Codebook
from mecq_jax.quantizers._levels import initial_levels as initial_levels
from mecq_jax.quantizers._levels import lloyd_max as lloyd_max
from mecq_jax.quantizers._levels import quantile as quantile
from mecq_jax.quantizers._levels import uniform as uniform
from mecq_jax.quantizers._mec import MEC as MEC
from mecq_jax.quantizers._mec import PRIORS as PRIORS
from mecq_jax.quantizers._mec import variance as variance
from mecq_jax.quantizers._registry import QUANTIZERS as QUANTIZERS
from mecq_jax.quantizers._registry import get_quantizer as get_quantizer
from mecq_jax.quantizers._straight_through import StraightThrough as StraightThrough
from mecq_jax.quantizers._straight_through import hard_diagnostics as hard_diagnostics
from mecq_jax.quantizers._straight_through import nearest_codes as nearest_codes
from mecq_jax.quantizers._straight_through import straight_through as straight_through
from mecq_jax.quantizers._types import Codes as Codes
from mecq_jax.quantizers._types import Groups as Groups
from mecq_jax.quantizers._types import Levels as Levels
from mecq_jax.quantizers._types import Params as Params
from mecq_jax.quantizers._types import State as State
from mecq_jax.quantizers._types import Temperature as Temperature
