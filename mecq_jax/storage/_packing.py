"""Packed codes, and the value type of a hard-quantized tensor.

The layout is the one that `mecq_jax.reader` documents to the bit and reads: 1, 2 and 4 bits little-endian
within each byte; 3 bits as a plane of the low two bits followed by a plane of the high bit; pad bits zero.
"""

import jax
import numpy as np
from jaxtyping import Shaped, UInt8

from mecq_reader import packed_size


def pack(codes: Shaped[np.ndarray, "..."] | Shaped[jax.Array, "..."], bits: int) -> UInt8[np.ndarray, " m"]:
    """The codes, uint8 of any shape in C order, as one stream of `packed_size(codes.size, bits)` bytes.

    Raises:
      ValueError: if the codes are not uint8, `bits` is not 1 to 4, or a code is 2**bits or more.
    """
    codes = np.asarray(codes)
    if codes.dtype != np.uint8:
        raise ValueError(f"codes must be uint8, not {codes.dtype}; cast them with .astype('uint8')")
    flat = codes.reshape(-1)
    out = np.zeros(packed_size(flat.size, bits), np.uint8)
    if flat.size and flat.max() >= 2**bits:
        index = tuple(int(i) for i in np.unravel_index(flat.argmax(), codes.shape))
        raise ValueError(
            f"code {flat.max()} at index {index} does not fit {bits} bits, which hold codes below {2**bits}; "
            "pack at the bits of its levels, bits_for(k)"
        )
    if bits == 3:
        low = packed_size(flat.size, 2)
        out[:low] = pack(flat & np.uint8(3), 2)
        out[low:] = pack(flat >> np.uint8(2), 1)
        return out
    per_byte = 8 // bits
    for i in range(per_byte):
        part = flat[i::per_byte]
        out[: part.size] |= part << np.uint8(i * bits)
    return out
