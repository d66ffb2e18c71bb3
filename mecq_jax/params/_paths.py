"""Leaves of a tree by path: the keys from the root joined by '/', as in 'block1/conv/kernel'."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Leaves by path, in the order in which nested mappings hold them.

    Args:
      tree: mappings, sequences, dataclasses or other pytrees. None is no leaf.

    Example:
      >>> from mecq_jax.params import leaves_by_path
      >>> leaves_by_path({"up": {"kernel": 1.0, "bias": 2.0}, "blocks": [3.0]})
      {'up/kernel': 1.0, 'up/bias': 2.0, 'blocks/0': 3.0}
    """
    if not isinstance(tree, Mapping):
        return {
            "/".join(key_name(k) for k in path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        }
    out = {}
    for key, value in tree.items():
        # Leaves as JAX sees them, so that these paths are the ones that `replace_leaves` meets.
        if isinstance(value, Mapping) or not jax.tree_util.all_leaves([value]):
            out.update({f"{key}/{p}" if p else str(key): leaf for p, leaf in leaves_by_path(value).items()})
        else:
            out[str(key)] = value
    return out


def key_name(key: Any) -> str:
    """One key of a path of `jax.tree_util` as a part of ours.

    Args:
      key: a `DictKey`, `GetAttrKey`, `SequenceKey` or `FlattenedIndexKey`.

    Example:
      >>> import jax
      >>> from mecq_jax.params import key_name
      >>> [(path, _)] = jax.tree_util.tree_leaves_with_path({"blocks": [1.0]})
      >>> "/".join(map(key_name, path))
      'blocks/0'
    """
    for name in ("key", "name", "idx"):
        if hasattr(key, name):
            return str(getattr(key, name))
    return str(key)


def replace_leaves(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """`tree` with the leaves at the given paths replaced; a path that the tree has not is passed over.

    Args:
      tree: any pytree.
      leaves: new leaves by path.

    Example:
      >>> from mecq_jax.params import replace_leaves
      >>> replace_leaves({"up": {"kernel": 1.0, "bias": 2.0}}, {"up/kernel": 5.0})
      {'up': {'bias': 2.0, 'kernel': 5.0}}
    """

    def at(path: tuple[Any, ...], leaf: Any) -> Any:
        return leaves.get("/".join(map(key_name, path)), leaf)

    return jax.tree_util.tree_map_with_path(at, tree)


def parameters_by_path(model: nnx.Module, *, every_name: bool = False) -> dict[str, Array]:
    """Every parameter of an NNX model by path, in the order of construction.

    Args:
      model: any NNX model.
      every_name: list what occurs in several places under each of its names, not under that of `nnx.state` alone.

    Example:
      >>> from flax import nnx
      >>> from mecq_jax.nn import parameters_by_path
      >>> list(parameters_by_path(nnx.Linear(2, 3, rngs=nnx.Rngs(0))))
      ['kernel', 'bias']
    """
    names = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    return {name: value for name, value in _parameters("", model) if every_name or name in names}


def _parameters(prefix: str, node: Any) -> Iterator[tuple[str, Array]]:
    if isinstance(node, nnx.Param):
        yield prefix, node[...]
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
        yield from _parameters(f"{prefix}/{name}" if prefix else str(name), child)
