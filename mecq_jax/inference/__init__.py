"""Networks from packed files, run in JAX."""

from mecq_jax.inference._by_blocks import by_blocks as by_blocks
from mecq_jax.inference._by_blocks import matmul as matmul
from mecq_jax.inference._load import Model as Model
from mecq_jax.inference._load import load as load
from mecq_jax.inference._packed import Forward as Forward
from mecq_jax.inference._packed import PackedTensor as PackedTensor
from mecq_jax.inference._packed import dense as dense
from mecq_jax.inference._packed import to_device as to_device
from mecq_jax.inference._packed import unpack as unpack
