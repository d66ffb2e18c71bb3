"""Checkpoints of a run by orbax: the train state, the phase and the epochs done, written atomically."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp


def save(folder: Path, step: int, state: Any) -> None:
    """Write `state` (a pytree of arrays; its key as raw data) as folder/<step>, then drop older ones."""
    folder = folder.resolve()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / str(step), _raw(state), force=True)
    for old in steps(folder):
        if old < step:
            shutil.rmtree(folder / str(old))


def steps(folder: Path) -> list[int]:
    """Steps of the finished checkpoints, ascending; an interrupted write has another name and is not one."""
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def restore(folder: Path, like: Any) -> tuple[int, Any] | None:
    """The last checkpoint in the shape of `like`, with its step; None if there is none."""
    folder = folder.resolve()
    found = steps(folder)
    if not found:
        return None
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _raw(like))
    with ocp.StandardCheckpointer() as checkpointer:
        raw = checkpointer.restore(folder / str(found[-1]), abstract)
    return found[-1], _typed(raw, like)


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _raw(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else jax.numpy.asarray(x), tree)


def _typed(raw: Any, like: Any) -> Any:
    def restore_leaf(x, y):
        return jax.random.wrap_key_data(np.asarray(x)) if _is_key(y) else x

    return jax.tree.map(restore_leaf, raw, like)
