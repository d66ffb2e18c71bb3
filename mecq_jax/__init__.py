"""mecq_jax: train JAX networks at 1 to 4 bits by maximum-entropy assignment of weights, and ship them packed."""

from mecq_jax import experimental as experimental
from mecq_jax import export as export
from mecq_jax import granularity as granularity
from mecq_jax import inference as inference
from mecq_jax import nn as nn
from mecq_jax import params as params
from mecq_jax import post_training as post_training
from mecq_jax import quantizers as quantizers
from mecq_jax import storage as storage
from mecq_jax import training as training
from mecq_jax import transport as transport
from mecq_jax.granularity import PerBlock as PerBlock
from mecq_jax.granularity import PerChannel as PerChannel
from mecq_jax.granularity import PerTensor as PerTensor
from mecq_jax.nn import QuantConv as QuantConv
from mecq_jax.nn import QuantDense as QuantDense
from mecq_jax.nn import quantize as quantize
from mecq_jax.params import Quantized as Quantized
from mecq_jax.params import Rule as Rule
from mecq_jax.params import default_rules as default_rules
from mecq_jax.params import quantize_tree as quantize_tree
from mecq_jax.quantizers import MEC as MEC
from mecq_jax.quantizers import get_quantizer as get_quantizer
from mecq_jax.quantizers.baselines import LSQ as LSQ
from mecq_jax.quantizers.baselines import STE as STE
from mecq_jax.storage import load as load
from mecq_jax.storage import save as save
from mecq_jax.storage import verify as verify
from mecq_jax.training import fit as fit
from mecq_jax.transport import Newton as Newton
from mecq_jax.transport import Ott as Ott
from mecq_jax.transport import Sinkhorn as Sinkhorn

__version__ = "0.1.0"
