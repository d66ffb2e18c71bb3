"""Flax NNX layers and models that compute with soft weights."""

from mecq_jax.nn._layers import QuantConv as QuantConv
from mecq_jax.nn._layers import QuantDense as QuantDense
from mecq_jax.nn._layers import QuantizerInfo as QuantizerInfo
from mecq_jax.nn._layers import QuantizerParam as QuantizerParam
from mecq_jax.nn._layers import QuantizerState as QuantizerState
from mecq_jax.nn._layers import Temperature as Temperature
from mecq_jax.nn._layers import entropy as entropy
from mecq_jax.nn._layers import forward as forward
from mecq_jax.nn._layers import harden as harden
from mecq_jax.nn._layers import parameters_by_path as parameters_by_path
from mecq_jax.nn._layers import quantize as quantize
from mecq_jax.nn._layers import set_temperature as set_temperature
