"""The leaves of a pytree between the devices and the host: copied, described with checksums, compared, placed."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils


def host_copy(tree: Any) -> Any:
    """JAX's arrays as NumPy arrays with memory of their own, a key as its raw data; NumPy's arrays stay as they are.

    On a CPU `np.asarray` of an array is a view of its buffer. To copy it is what lets the next step write its result
    into that buffer (donation), which JAX refuses while a view of it is held. Of leaves that lie on the devices of
    several processes each process gets the whole, and all must call this together.

    Args:
      tree: any pytree of arrays.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mecq_jax.training import host_copy, placed
      >>> state = {"w": jnp.ones(2), "rng": jax.random.key(0)}
      >>> host = host_copy(state)
      >>> type(host["w"]).__name__, host["rng"].dtype, placed(host, state)["rng"].dtype == state["rng"].dtype
      ('ndarray', dtype('uint32'), True)
    """
    raw = jax.tree.map(lambda x: _whole(jax.random.key_data(x) if is_key(x) else x), tree)
    host = jax.device_get(raw)  # starts all transfers before it waits for one
    return jax.tree.map(lambda x, y: np.array(y, copy=True) if isinstance(x, jax.Array) else y, raw, host)


def _whole(x: Any) -> Any:
    if isinstance(x, jax.Array) and not x.is_fully_addressable and not x.is_fully_replicated:
        return multihost_utils.process_allgather(x, tiled=True)
    return x


def host_like(tree: Any) -> Any:
    """Empty NumPy arrays of the shapes and types that `host_copy` gives."""

    def empty(x: Any) -> np.ndarray:
        x = jax.eval_shape(jax.random.key_data, x) if is_key(x) else x
        return np.empty(np.shape(x), x.dtype)

    return jax.tree.map(empty, tree)


def is_key(x: Any) -> bool:
    """Whether a leaf is a typed PRNG key."""
    return isinstance(x, jax.Array) and bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


def placed(host: Any, like: Any) -> Any:
    """The arrays that `host_copy` gave, as keys where `like` has them, and on its devices; an example is there.

    Args:
      host: of `host_copy`.
      like: the tree that was copied, or one of its structure and shapes on other devices.
    """

    def place(x: Any, y: Any) -> Any:
        if not isinstance(y, jax.Array):
            return x
        if not y.is_fully_addressable:
            raw = y if not is_key(y) else jax.random.key_data(y)
            x = jax.make_array_from_callback(x.shape, raw.sharding, lambda index: x[index])
            return jax.random.wrap_key_data(x) if is_key(y) else x
        if is_key(y):
            x = jax.random.wrap_key_data(x)
        # Left where jit is free to move it, as a fresh array is; a copy, for the next step takes the buffer over.
        return jax.device_put(x, y.sharding, may_alias=False) if y.committed else jnp.array(x, copy=True)

    return jax.tree.map(place, host, like)


def described(host: Any) -> dict[str, list[Any]]:
    """[type, shape, checksum] of every leaf by its path."""
    flat, _ = jax.tree_util.tree_flatten_with_path(host)
    return {
        jax.tree_util.keystr(path): [str(x.dtype), list(x.shape), zlib.crc32(np.ascontiguousarray(x).tobytes())]
        for path, x in flat
    }


def mismatch(stored: Mapping[str, list[Any]], wanted: Any) -> str:
    """In what the leaves differ, by name, type or shape; empty where they do not."""
    flat, _ = jax.tree_util.tree_flatten_with_path(wanted)
    now = {jax.tree_util.keystr(path): [str(x.dtype), list(x.shape)] for path, x in flat}
    for name in sorted(now.keys() | stored.keys()):
        there, here = stored.get(name, [])[:2], now.get(name, [])
        if there != here:
            return f"{name} is {there or 'absent'} there and {here or 'absent'} now"
    return ""
