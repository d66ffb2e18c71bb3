"""The quantizer over a whole parameter tree, of any Flax, Haiku or Equinox model.

    plan, quant, state = quantize_tree(params, rules)
    soft_params, state, info = apply_tree(plan, params, quant, state, epsilon)

`params` stay what the model defines; `quant` (levels, steps) is trained beside them; `state` (potentials) is carried.
Both are {path: {name: array}}, so that optax, orbax and jit take them as they are.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mecq_jax.grouping import from_groups, group_shape, to_groups
from mecq_jax.quantizer import Info, Params, Quantizer, State
from mecq_jax.rules import Plan, Rule, _key, flatten, make_plan

QuantTree = dict[str, Params]
StateTree = dict[str, State]
Codes = dict[str, UInt8[Array, "g n"]]
JOINED = 2**18  # weights of the largest leaf that is joined with others into one call


def replace_leaves(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """`tree` with the leaves at the given paths replaced."""

    def at(path, leaf):
        return leaves.get("/".join(map(_key, path)), leaf)

    return jax.tree_util.tree_map_with_path(at, tree)


def quantize_tree(params: Any, rules: Sequence[Rule] | Quantizer) -> tuple[Plan, QuantTree, StateTree]:
    """Plan the quantization of `params` and start its levels and potentials.

    Args:
      params: any tree of arrays.
      rules: `Rule`s, first match wins; or one quantizer, which stands for `rules.default_rules`.

    Returns:
      The plan (static), quantizer parameters and quantizer state by path.

    Raises:
      ValueError: if a rule decides nothing, or a quantizer does not fit its leaf.
    """
    plan = make_plan(params, rules)
    leaves = flatten(params)
    quant, state = {}, {}
    for path, quantizer in plan.quantizers.items():
        leaf = leaves[path]
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"{path} is {leaf.dtype}; only floating weights can be quantized, exclude it by a rule")
        try:
            quant[path], state[path] = jax.jit(quantizer.init)(leaf)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return plan, quant, state


def apply_tree(
    plan: Plan, params: Any, quant: QuantTree, state: StateTree, epsilon: Float[Array, ""] | float
) -> tuple[Any, StateTree, dict[str, Info]]:
    """`params` with every planned leaf replaced by its soft weights; the new state; diagnostics by path."""
    leaves = flatten(params)
    soft, new_state, info = {}, {}, {}
    for quantizer, paths in _batches(plan, leaves):
        if len(paths) == 1:
            path = paths[0]
            soft[path], new_state[path], info[path] = quantizer.apply(leaves[path], quant[path], state[path], epsilon)
            continue
        groups = [to_groups(leaves[path], quantizer.granularity) for path in paths]
        ends = list(accumulate(g.shape[0] for g in groups))
        joined_quant, joined_state = (
            jax.tree.map(lambda *x: jnp.concatenate(x), *(part[path] for path in paths)) for part in (quant, state)
        )
        out = quantizer.apply_groups(jnp.concatenate(groups), joined_quant, joined_state, epsilon)
        for path, start, end in zip(paths, [0, *ends], ends, strict=False):
            part, new_state[path], own = jax.tree.map(lambda x, at=slice(start, end): x[at], out)
            soft[path] = from_groups(part, leaves[path].shape, quantizer.granularity)
            info[path] = own.over_groups()
    return replace_leaves(params, soft), {path: new_state[path] for path in state}, info


def _batches(plan: Plan, leaves: Mapping[str, Any]) -> list[tuple[Quantizer, list[str]]]:
    """Paths that can share a call: small leaves of one type and quantizer whose groups have one size.

    A network's many layers of a few shapes become a few kernels; a large leaf keeps the device busy by itself, and
    joining it would copy it.
    """
    batches: dict[Any, tuple[Quantizer, list[str]]] = {}
    for path, quantizer in plan.quantizers.items():
        leaf = leaves[path]
        key: Any = path
        if leaf.size <= JOINED:
            key = (quantizer, str(leaf.dtype), group_shape(leaf.shape, quantizer.granularity)[1])
        batches.setdefault(key, (quantizer, []))[1].append(path)
    return list(batches.values())


def codes_tree(plan: Plan, params: Any, quant: QuantTree, state: StateTree) -> Codes:
    """The code of every quantized weight, uint8 [g, n] by path."""
    leaves = flatten(params)
    return {path: z.codes(leaves[path], quant[path], state[path]) for path, z in plan.quantizers.items()}


def apply_codes(plan: Plan, params: Any, quant: QuantTree, state: StateTree, codes: Codes) -> Any:
    """`params` with every planned leaf replaced by levels[codes]: the network that is shipped."""
    leaves = flatten(params)
    hard = {}
    for path, quantizer in plan.quantizers.items():
        levels = quantizer.levels(quant[path], state[path])
        dense = jnp.take_along_axis(levels, codes[path].astype(jnp.int32), axis=1)
        hard[path] = from_groups(dense, leaves[path].shape, quantizer.granularity).astype(leaves[path].dtype)
    return replace_leaves(params, hard)


def mean_entropy(plan: Plan, params: Any, info: Mapping[str, Info]) -> Float[Array, ""]:
    """Mean entropy of an assignment over all quantized weights, in nats (weighted by parameter count)."""
    leaves = flatten(params)
    sizes = {path: leaves[path].size for path in info}
    total = sum(sizes.values())
    return sum((info[path].entropy * (size / total) for path, size in sizes.items()), jnp.zeros((), jnp.float32))
