"""Several processes of one run: who writes files, and how the others hear of what one reads."""

import pickle
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")
_PIECE = 2**20  # bytes that the first process sends at once


def writes() -> bool:
    """Whether this process writes files: the first one does.

    Example:
      >>> from mecq_jax.training import writes
      >>> writes()
      True
    """
    return jax.process_index() == 0


def of_first(function: Callable[[], T]) -> T:
    """What `function` gives in the first process, in every process; the others do not call it.

    Args:
      function: returns what can be pickled.

    Example:
      >>> from mecq_jax.training import of_first
      >>> of_first(lambda: "read by one process")
      'read by one process'
    """
    if jax.process_count() == 1:
        return function()
    sent = pickle.dumps(function()) if writes() else b""
    pieces = int(multihost_utils.broadcast_one_to_all(np.int32(-(-len(sent) // _PIECE))))
    received = []
    for i in range(pieces):
        piece = np.frombuffer(sent[i * _PIECE : (i + 1) * _PIECE].ljust(_PIECE, b"\0"), np.uint8)
        received.append(multihost_utils.broadcast_one_to_all(piece).astype(np.uint8).tobytes())
    result: T = pickle.loads(b"".join(received))  # which ends where the pickle does
    return result
