"""The quantizer over a whole parameter tree, of any Flax, Haiku or Equinox model.

    plan, quant, state = quantize_tree(params, rules)
    soft_params, state, info = apply_tree(plan, params, quant, state, temperature)

`params` stay what the model defines; `quant` (levels, steps) is trained beside them; `state` (potentials) is carried.
Both are {path: {name: array}}, so that optax, orbax and jit take them as they are.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mecq_jax.granularity import PerTensor, from_groups, group_shape, shards_back, shards_first, to_groups
from mecq_jax.params._paths import leaves_by_path, replace_leaves
from mecq_jax.params._rules import Plan, Rule, make_plan
from mecq_jax.quantizers import Diagnostics, Params, Quantizer, State, init_jitted

QuantTree = dict[str, Params]
StateTree = dict[str, State]
Codes = dict[str, UInt8[Array, "..."]]
JOINED = 2**18  # weights of the largest leaf that is joined with others into one call


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
    leaves = leaves_by_path(params)
    quant, state = {}, {}
    for path, quantizer in plan.quantizers.items():
        leaf = leaves[path]
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"{path} is {leaf.dtype}; only floating weights can be quantized, exclude it by a rule")
        try:
            quant[path], state[path] = init_jitted(quantizer, leaf)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return plan, quant, state


def apply_tree(
    plan: Plan, params: Any, quant: QuantTree, state: StateTree, temperature: Float[Array, ""] | float
) -> tuple[Any, StateTree, dict[str, Diagnostics]]:
    """`params` with every planned leaf replaced by its soft weights; the new state; diagnostics by path."""
    leaves = leaves_by_path(params)
    soft, new_state, info = {}, {}, {}
    for quantizer, paths in _batches(plan, leaves):
        if len(paths) == 1:
            path = paths[0]
            laid = _laid(plan, path, leaves[path])
            used, new_state[path], info[path] = quantizer.apply(laid, quant[path], state[path], temperature)
            soft[path] = _unlaid(plan, path, used, leaves[path].shape)
            continue
        groups = [to_groups(leaves[path], quantizer.granularity) for path in paths]
        ends = list(accumulate(g.shape[0] for g in groups))
        joined_quant, joined_state = (
            jax.tree.map(lambda *x: jnp.concatenate(x), *(part[path] for path in paths)) for part in (quant, state)
        )
        out = quantizer.apply_groups(jnp.concatenate(groups), joined_quant, joined_state, temperature)
        for path, start, end in zip(paths, [0, *ends], ends, strict=False):
            part, new_state[path], own = jax.tree.map(lambda x, at=slice(start, end): x[at], out)
            soft[path] = from_groups(part, leaves[path].shape, quantizer.granularity)
            info[path] = own.over_groups()
    return replace_leaves(params, soft), {path: new_state[path] for path in state}, info


def _batches(plan: Plan, leaves: Mapping[str, Any]) -> list[tuple[Quantizer, list[str]]]:
    """Paths that can share a call: small leaves of one type and quantizer whose groups have one size.

    A network's many layers of a few shapes become a few kernels; a large leaf keeps the device busy by itself, and
    joining it would copy it, as it would one that is split over devices.
    """
    batches: dict[Any, tuple[Quantizer, list[str]]] = {}
    for path, quantizer in plan.quantizers.items():
        leaf = leaves[path]
        key: Any = path
        if leaf.size <= JOINED and path not in plan.shards:
            key = (quantizer, str(leaf.dtype), group_shape(leaf.shape, quantizer.granularity)[1])
        batches.setdefault(key, (quantizer, []))[1].append(path)
    return list(batches.values())


def _laid(plan: Plan, path: str, leaf: Array) -> Array:
    """A leaf whose flattening keeps its parts on their devices; a tensor's levels do not ask for an order."""
    per_tensor = isinstance(plan.quantizers[path].granularity, PerTensor)
    return shards_first(leaf, plan.shards[path]) if per_tensor and path in plan.shards else leaf


def _unlaid(plan: Plan, path: str, laid: Array, shape: Sequence[int]) -> Array:
    """The inverse, of an array of as many entries."""
    per_tensor = isinstance(plan.quantizers[path].granularity, PerTensor)
    return shards_back(laid, shape, plan.shards[path]) if per_tensor and path in plan.shards else laid.reshape(shape)


def codes_tree(plan: Plan, params: Any, quant: QuantTree, state: StateTree) -> Codes:
    """The code of every quantized weight, uint8 in the leaf's shape, by path."""
    leaves = leaves_by_path(params)
    found = {}
    for path, quantizer in plan.quantizers.items():
        leaf = leaves[path]
        codes = quantizer.codes(_laid(plan, path, leaf), quant[path], state[path])
        if isinstance(quantizer.granularity, PerTensor):
            found[path] = _unlaid(plan, path, codes, leaf.shape)
        else:
            found[path] = from_groups(codes, leaf.shape, quantizer.granularity)
    return found


def apply_codes(plan: Plan, params: Any, quant: QuantTree, state: StateTree, codes: Codes) -> Any:
    """`params` with every planned leaf replaced by levels[codes]: the network that is shipped."""
    leaves = leaves_by_path(params)
    hard = {}
    for path, quantizer in plan.quantizers.items():
        levels, at = quantizer.levels(quant[path], state[path]), codes[path].astype(jnp.int32)
        if isinstance(quantizer.granularity, PerTensor):
            dense = levels[0][at]
        else:
            groups = jnp.take_along_axis(levels, to_groups(at, quantizer.granularity), axis=1)
            dense = from_groups(groups, leaves[path].shape, quantizer.granularity)
        hard[path] = dense.astype(leaves[path].dtype)
    return replace_leaves(params, hard)


def mean_entropy(plan: Plan, params: Any, info: Mapping[str, Diagnostics]) -> Float[Array, ""]:
    """Mean entropy of an assignment over all quantized weights, in nats (weighted by parameter count)."""
    leaves = leaves_by_path(params)
    sizes = {path: leaves[path].size for path in info}
    total = sum(sizes.values())
    return sum((info[path].entropy * (size / total) for path, size in sizes.items()), jnp.zeros((), jnp.float32))
