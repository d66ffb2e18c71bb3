"""Networks from packed files, run in JAX.

`load` is what most need: it takes a file and a pure function of (arrays by path, x), such as
`mecq_jax.nn.forward(model)`, and gives a network to call, its weights unpacked once or packed on the device. The rest
are its parts: `to_device` and `dense` for unpacking inside one's own jit, `by_blocks` and `matmul` for products that
unpack as they go.
"""

from mecq_jax.inference._by_blocks import by_blocks as by_blocks
from mecq_jax.inference._by_blocks import matmul as matmul
from mecq_jax.inference._load import Model as Model
from mecq_jax.inference._load import load as load
from mecq_jax.inference._packed import Forward as Forward
from mecq_jax.inference._packed import PackedTensor as PackedTensor
from mecq_jax.inference._packed import dense as dense
from mecq_jax.inference._packed import to_device as to_device
from mecq_jax.inference._packed import unpack as unpack
