"""A batch of any size: the shapes that a network is traced with."""

from collections.abc import Sequence
from typing import Any

import jax
from jax import export as jax_export
from jax.typing import DTypeLike

SYMBOL = "batch"  # the name of the number of inputs


def symbolic_batch() -> Any:
    """The number of inputs as a symbolic dimension."""
    (batch,) = jax_export.symbolic_shape(SYMBOL)
    return batch


def shaped(shape: Sequence[Any], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    """What stands for an array of this shape and type while a function is traced."""
    return jax.ShapeDtypeStruct(shape, dtype)
