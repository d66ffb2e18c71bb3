"""Training that diverged: finding what is not finite, and a table of the layers that shows where it began."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mecq_jax.params import leaves_by_path
from mecq_jax.training import TrainState, host_copy

_LEVELS_SHOWN = 4


class Diverged(FloatingPointError):
    """A loss or a state that is not finite; the message names the step and shows the layers."""


def not_finite(tree: Any) -> list[str]:
    """Paths of the floating leaves that hold a NaN or an infinity."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path) for path, x in flat if not _finite(x).all()]


def table(state: TrainState) -> str:
    """One line a layer: share of finite weights, their least, greatest and variance, and the levels of the first group.

    Quantized layers, and every other leaf that has two dimensions or values that are not finite.
    """
    state = host_copy(state)
    rows: list[tuple[str, ...]] = [("layer", "finite", "min", "max", "variance", "levels")]
    for path, leaf in leaves_by_path(state.params).items():
        weights = np.asarray(leaf, dtype=np.float64)
        finite = weights[np.isfinite(weights)]
        quantized = path in state.quantized.plan.quantizers
        if not quantized and weights.ndim < 2 and finite.size == weights.size:
            continue
        numbers = [f(finite) if finite.size else np.nan for f in (np.min, np.max, np.var)]
        levels = "float"
        if quantized:
            first = np.asarray(jax.tree.map(jnp.asarray, state.quantized).levels(path))[0]
            more = " ..." if len(first) > _LEVELS_SHOWN else ""
            levels = " ".join(f"{x:.3g}" for x in first[:_LEVELS_SHOWN]) + more
        rows.append((path, f"{finite.size / weights.size:.1%}", *(f"{x:.3g}" for x in numbers), levels))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join("  ".join(["", *(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[5]]) for row in rows)


def _finite(x: Any) -> np.ndarray:
    array = np.asarray(x)
    # Narrow types (bfloat16) are no floats to NumPy.
    return np.isfinite(array.astype(np.float32)) if jnp.issubdtype(array.dtype, np.floating) else np.ones(1, bool)
