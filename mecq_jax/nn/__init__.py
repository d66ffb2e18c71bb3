"""Flax NNX layers and models that compute with soft, or with hard weights."""

from mecq_jax.nn._forward import forward as forward
from mecq_jax.nn._layers import QuantConv as QuantConv
from mecq_jax.nn._layers import QuantDense as QuantDense
from mecq_jax.nn._layers import QuantizerCodes as QuantizerCodes
from mecq_jax.nn._layers import QuantizerInfo as QuantizerInfo
from mecq_jax.nn._layers import QuantizerParam as QuantizerParam
from mecq_jax.nn._layers import QuantizerState as QuantizerState
from mecq_jax.nn._layers import Temperature as Temperature
from mecq_jax.nn._quantize import entropy as entropy
from mecq_jax.nn._quantize import freeze as freeze
from mecq_jax.nn._quantize import harden as harden
from mecq_jax.nn._quantize import quantize as quantize
from mecq_jax.nn._quantize import quantized_of as quantized_of
from mecq_jax.nn._quantize import set_temperature as set_temperature
from mecq_jax.params import parameters_by_path as parameters_by_path
