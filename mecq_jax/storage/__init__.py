"""Packed codes and the file that holds them."""

from mecq_jax.storage._atomic import write_atomically as write_atomically
from mecq_jax.storage._file import PRODUCER as PRODUCER
from mecq_jax.storage._file import Leaf as Leaf
from mecq_jax.storage._file import load as load
from mecq_jax.storage._file import save as save
from mecq_jax.storage._file import verify as verify
from mecq_jax.storage._packing import pack as pack
from mecq_jax.storage._tensors import DTYPES as DTYPES
from mecq_jax.storage._tensors import QuantizedTensor as QuantizedTensor
