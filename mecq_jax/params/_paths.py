"""Leaves of a tree by path: the keys from the root joined by '/', as in 'block1/conv/kernel'."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array


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


def parameters_by_path(model: nnx.Module) -> dict[str, Array]:
    """Every parameter of an NNX model by path, in the order of construction.

    Example:
      >>> from flax import nnx
      >>> from mecq_jax.nn import parameters_by_path
      >>> list(parameters_by_path(nnx.Linear(2, 3, rngs=nnx.Rngs(0))))
      ['kernel', 'bias']
    """
    leaves: dict[str, Array] = {}

    def visit(prefix: str, node: Any) -> None:
        if isinstance(node, nnx.Param):
            leaves[prefix] = node[...]
            return
        if isinstance(node, (nnx.Module, nnx.List, nnx.Dict)):
            children = {k: v for k, v in vars(node).items() if not k.startswith("_pytree")}
        elif isinstance(node, dict):
            children = node
        elif isinstance(node, (list, tuple)):
            children = {str(i): v for i, v in enumerate(node)}
        else:
            return
        for name, child in children.items():
            visit(f"{prefix}/{name}" if prefix else str(name), child)

    visit("", model)
    return leaves
