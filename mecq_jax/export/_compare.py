"""Whether another runtime computes what JAX computes."""

from typing import Any

import numpy as np


class MismatchError(RuntimeError):
    """The file was run and does not compute what JAX computes; it was not written.

    Example:
      >>> import numpy as np
      >>> from mecq_jax import export
      >>> try:
      ...     export.compare(np.float32([1.5]), np.float32([1.0]), 0.1, "ONNX Runtime")
      ... except export.MismatchError as error:
      ...     print(str(error)[:40])
      ONNX Runtime differs from JAX by 5.0e-01
    """


def compare(found: Any, expected: Any, tolerance: float, where: str) -> float:
    """Compare what a runtime computed with what JAX computed.

        difference = max |found - expected| / max |expected|

    Infinities and NaNs must stand where they are expected; the scale is the largest finite number.

    Args:
      found: the runtime's array.
      expected: JAX's array, of the same shape and type.
      tolerance: largest difference allowed.
      where: the runtime's name, for the message.

    Returns:
      The difference.

    Raises:
      MismatchError: if it is above `tolerance`, the shapes or types differ, or there is no number to compare.

    Example:
      >>> import numpy as np
      >>> from mecq_jax import export
      >>> export.compare(np.float32([2.0, 1.0]), np.float32([2.0, 1.5]), 0.5, "ONNX Runtime")
      0.25
    """
    found, expected = np.asarray(found), np.asarray(expected)
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        raise MismatchError(
            f"{where} gives {found.dtype} {list(found.shape)}, JAX {expected.dtype} {list(expected.shape)}"
        )
    if not expected.size:
        raise MismatchError("there was nothing to compare; give inputs")
    same = (found == expected) | ((found != found) & (expected != expected))
    finite = np.abs(expected[np.isfinite(expected)].astype(np.float64))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(found.astype(np.float64) - expected.astype(np.float64)))
    difference = float(apart.max()) / (float(finite.max(initial=0.0)) or 1.0)
    if not difference <= tolerance:
        raise MismatchError(
            f"{where} differs from JAX by {difference:.1e} of the largest output, more than tolerance = {tolerance:g}; "
            "nothing was written: report it with the model, or allow more if the network is known to be that sensitive"
        )
    return difference
