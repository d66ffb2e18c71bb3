"""Codes of 1 to 4 bits as a stream of bytes.

The layout is the one that `mecq_reader` documents to the bit and reads: 1, 2 and 4 bits little-endian
within each byte; 3 bits as a plane of the low two bits followed by a plane of the high bit; pad bits zero.
"""

import jax
import numpy as np
from jaxtyping import Shaped, UInt8

from mecq_reader import packed_size


def pack(codes: Shaped[np.ndarray, "..."] | Shaped[jax.Array, "..."], bits: int) -> UInt8[np.ndarray, " m"]:
    """Pack codes into one stream of bytes; `mecq_jax.storage.unpack` is the inverse.

        byte_j = sum_i 2^(i bits) code_(j 8 / bits + i),  0 <= i < 8 / bits        (1, 2 and 4 bits)

    Codes of 3 bits are two such streams, one after the other: their low two bits, then their high bit.

    Args:
      codes: uint8 of any shape, read in C order, each below 2^bits.
      bits: of a code, 1 to 4.

    Returns:
      uint8 [m], m = `packed_size(codes.size, bits)`.

    Raises:
      ValueError: if the codes are not uint8, `bits` is not 1 to 4, or a code is 2^bits or more.

    Example:
      >>> import numpy as np
      >>> from mecq_jax.storage import pack, unpack
      >>> data = pack(np.array([3, 0, 1, 2, 1], np.uint8), bits=2)
      >>> data.tolist(), unpack(data, 2, 5).tolist()
      ([147, 1], [3, 0, 1, 2, 1])
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
