"""Leaves of a tree by path: the keys from the root joined by '/', as in 'block1/conv/kernel'."""

from collections.abc import Mapping
from typing import Any

import jax


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Leaves by path, in the order in which nested mappings hold them."""
    if not isinstance(tree, Mapping):
        return {
            "/".join(key_name(k) for k in path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        }
    out = {}
    for key, value in tree.items():
        # Leaves as JAX sees them, so that these paths are the ones `tree.replace_leaves` meets.
        if isinstance(value, Mapping) or not jax.tree_util.all_leaves([value]):
            out.update({f"{key}/{p}" if p else str(key): leaf for p, leaf in leaves_by_path(value).items()})
        else:
            out[str(key)] = value
    return out


def key_name(key: Any) -> str:
    for name in ("key", "name", "idx"):
        if hasattr(key, name):
            return str(getattr(key, name))
    return str(key)


def replace_leaves(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """`tree` with the leaves at the given paths replaced."""

    def at(path, leaf):
        return leaves.get("/".join(map(key_name, path)), leaf)

    return jax.tree_util.tree_map_with_path(at, tree)
