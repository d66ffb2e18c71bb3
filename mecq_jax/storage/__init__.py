"""Hard-quantized tensors, their packed codes, and the file that holds them.

`save`, `load` and `verify` work on a file; `QuantizedTensor` is what is in it. The format to the bit is documented in
`mecq_reader`, which reads it with NumPy alone and from which `unpack`, `bits_for`, `packed_size` and `ArtifactError`
come.
"""

from mecq_jax.storage._atomic import write_atomically as write_atomically
from mecq_jax.storage._file import PRODUCER as PRODUCER
from mecq_jax.storage._file import Leaf as Leaf
from mecq_jax.storage._file import load as load
from mecq_jax.storage._file import save as save
from mecq_jax.storage._file import verify as verify
from mecq_jax.storage._packing import pack as pack
from mecq_jax.storage._tensors import DTYPES as DTYPES
from mecq_jax.storage._tensors import QuantizedTensor as QuantizedTensor
from mecq_reader import ArtifactError as ArtifactError
from mecq_reader import bits_for as bits_for
from mecq_reader import packed_size as packed_size
from mecq_reader import unpack as unpack
