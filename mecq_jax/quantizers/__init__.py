"""Quantizers: pure functions of (weights, parameters, state) behind one interface."""

from mecq_jax.quantizers._base import Diagnostics as Diagnostics
from mecq_jax.quantizers._base import GroupedQuantizer as GroupedQuantizer
from mecq_jax.quantizers._base import Params as Params
from mecq_jax.quantizers._base import Quantizer as Quantizer
from mecq_jax.quantizers._base import State as State
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
