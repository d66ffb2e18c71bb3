"""The quantizers of a whole parameter tree as one pytree, for any Flax, Haiku or Equinox model.

    quantized = quantize_tree(params, rules)
    soft, quantized, diagnostics = quantized.soft(params, temperature)      # the soft phase computes with `soft`
    quantized = quantized.freeze(params)                                    # every weight takes its most probable level
    hard = quantized.hard(params)                                           # what ships, as a tree ...
    tensors = quantized.to_tensors(params)                                  # ... and by path, for `mecq_jax.save`

`params` stay what the model defines. Of a `Quantized` optax trains `parameters` (levels, steps); `state` (potentials)
and `codes` are carried.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mecq_jax.granularity import PerTensor, from_groups, group_shape, shards_back, shards_first, to_groups
from mecq_jax.params._paths import leaves_by_path, replace_leaves
from mecq_jax.params._rules import Plan, Rule, make_plan
from mecq_jax.quantizers import Diagnostics, Params, Quantizer, State, init_jitted
from mecq_jax.storage import QuantizedTensor

JOINED = 2**18  # weights of the largest leaf that is joined with others into one call


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized:
    """What the quantizers of a parameter tree keep.

    Attributes:
      plan: which leaves are quantized and how; static.
      parameters: {path: {name: array}}, levels or steps, trained beside the weights.
      state: {path: {name: array}}, potentials and the like, carried between steps.
      codes: {path: uint8 in the leaf's shape}, the level of every weight when `freeze` was called last.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax import MEC, Rule, quantize_tree
      >>> params = {"dense": {"kernel": jnp.linspace(-1.0, 1.0, 64).reshape(8, 8), "bias": jnp.zeros(8)}}
      >>> quantized = quantize_tree(params, [Rule(".*kernel", MEC(bits=1))])
      >>> hard = quantized.hard(params)
      >>> jnp.unique(hard["dense"]["kernel"]).size
      2
    """

    plan: Plan = dataclasses.field(metadata={"static": True})
    parameters: dict[str, Params]
    state: dict[str, State]
    codes: dict[str, UInt8[Array, "..."]]

    @classmethod
    def none(cls) -> "Quantized":
        """That of a float network: nothing is quantized."""
        return cls(Plan({}, {}), {}, {}, {})

    def soft(
        self, params: Any, temperature: Float[Array, ""] | float
    ) -> tuple[Any, "Quantized", dict[str, Diagnostics]]:
        """Soft weights in the place of every planned leaf.

        Args:
          params: the tree that was quantized.
          temperature: epsilon / var(w) of each group, above 0.

        Returns:
          `params` with soft weights, differentiable in `params` and `self.parameters`; self with the new state;
          diagnostics by path.

        Example:
          >>> import jax.numpy as jnp
          >>> from mecq_jax import MEC, Rule, quantize_tree
          >>> params = {"kernel": jnp.linspace(-1.0, 1.0, 16).reshape(4, 4)}
          >>> soft, quantized, diagnostics = quantize_tree(params, [Rule("kernel", MEC(bits=1))]).soft(params, 0.1)
          >>> soft["kernel"].shape, list(quantized.state), list(diagnostics)
          ((4, 4), ['kernel'], ['kernel'])
        """
        leaves = leaves_by_path(params)
        soft: dict[str, Array] = {}
        state, diagnostics = dict(self.state), {}
        for quantizer, paths in _batches(self.plan, leaves):
            if len(paths) == 1:
                path = paths[0]
                laid = _laid(self.plan, path, leaves[path])
                used, state[path], diagnostics[path] = quantizer.apply(
                    laid, self.parameters[path], self.state[path], temperature
                )
                soft[path] = _unlaid(self.plan, path, used, leaves[path].shape)
                continue
            groups = [to_groups(leaves[path], quantizer.granularity) for path in paths]
            ends = list(accumulate(g.shape[0] for g in groups))
            joined_parameters, joined_state = (
                jax.tree.map(lambda *x: jnp.concatenate(x), *(part[path] for path in paths))
                for part in (self.parameters, self.state)
            )
            out = quantizer.apply_groups(jnp.concatenate(groups), joined_parameters, joined_state, temperature)
            for path, start, end in zip(paths, [0, *ends], ends, strict=False):
                part, state[path], of_groups = jax.tree.map(lambda x, at=slice(start, end): x[at], out)
                soft[path] = from_groups(part, leaves[path].shape, quantizer.granularity)
                diagnostics[path] = of_groups.over_groups()
        return replace_leaves(params, soft), dataclasses.replace(self, state=state), diagnostics

    def freeze(self, params: Any, temperature: Float[Array, ""] | float | None = None) -> "Quantized":
        """Self with the code of every weight: its most probable level.

        Args:
          params: the tree that was quantized.
          temperature: solve the potentials for these weights at this temperature first; None takes them as they are,
            which after a step are those of the weights before it.

        Example:
          >>> import jax.numpy as jnp
          >>> from mecq_jax import STE, Rule, quantize_tree
          >>> params = {"kernel": jnp.array([[-1.0, 0.9], [0.1, 1.0]])}
          >>> quantize_tree(params, [Rule("kernel", STE(bits=1))]).freeze(params).codes["kernel"].tolist()
          [[0, 1], [1, 1]]
        """
        solved = self if temperature is None else self.soft(params, temperature)[1]
        leaves = leaves_by_path(params)
        codes = {}
        for path, quantizer in self.plan.quantizers.items():
            leaf = leaves[path]
            of_groups = quantizer.codes(_laid(self.plan, path, leaf), solved.parameters[path], solved.state[path])
            if isinstance(quantizer.granularity, PerTensor):
                codes[path] = _unlaid(self.plan, path, of_groups, leaf.shape)
            else:
                codes[path] = from_groups(of_groups, leaf.shape, quantizer.granularity)
        return dataclasses.replace(solved, codes=codes)

    def levels(self, path: str) -> Float[Array, "g k"]:
        """The levels of every group of the leaf at `path`, ascending, one row a group."""
        return self.plan.quantizers[path].levels(self.parameters[path], self.state[path])

    def hard(self, params: Any) -> Any:
        """`params` with levels[codes] in the place of every planned leaf: the network that ships.

            w^_i = q_{c_i}, with the levels q of the group that weight i is in

        Args:
          params: the tree that was quantized.

        Example:
          >>> import jax.numpy as jnp
          >>> from mecq_jax import STE, Rule, quantize_tree
          >>> params = {"kernel": jnp.array([[-1.0, 0.9], [0.1, 1.0]])}
          >>> quantize_tree(params, [Rule("kernel", STE(bits=1))]).hard(params)["kernel"].tolist()
          [[-0.5, 0.5], [0.5, 0.5]]
        """
        leaves = leaves_by_path(params)
        hard = {}
        for path, quantizer in self.plan.quantizers.items():
            levels, at = self.levels(path), self.codes[path].astype(jnp.int32)
            if isinstance(quantizer.granularity, PerTensor):
                dense = levels[0][at]
            else:
                groups = jnp.take_along_axis(levels, to_groups(at, quantizer.granularity), axis=1)
                dense = from_groups(groups, leaves[path].shape, quantizer.granularity)
            hard[path] = dense.astype(leaves[path].dtype)
        return replace_leaves(params, hard)

    def to_tensors(self, params: Any) -> dict[str, QuantizedTensor | np.ndarray]:
        """Every leaf by path as it ships: quantized leaves as codes and levels, the others as they are.

        Args:
          params: the tree that was quantized.

        Returns:
          What `mecq_jax.save` takes.

        Raises:
          ValueError: if a level is not finite (training diverged).

        Example:
          >>> import jax.numpy as jnp
          >>> from mecq_jax import STE, Rule, quantize_tree
          >>> params = {"kernel": jnp.array([[-1.0, 0.9], [0.1, 1.0]]), "bias": jnp.zeros(2)}
          >>> tensors = quantize_tree(params, [Rule("kernel", STE(bits=1))]).to_tensors(params)
          >>> tensors["kernel"].bits, tensors["bias"].dtype
          (1, dtype('float32'))
        """
        tensors: dict[str, QuantizedTensor | np.ndarray] = {}
        for path, leaf in leaves_by_path(params).items():
            if path not in self.plan.quantizers:
                tensors[path] = np.asarray(leaf)
                continue
            granularity = self.plan.quantizers[path].granularity
            tensors[path] = QuantizedTensor(
                codes=np.asarray(to_groups(self.codes[path], granularity)),
                levels=np.asarray(self.levels(path)),
                shape=tuple(leaf.shape),
                granularity=granularity,
                dtype=str(leaf.dtype),
            )
        return tensors

    def __or__(self, other: "Quantized") -> "Quantized":
        """The union of the quantizers of two parts of one tree.

        Raises:
          ValueError: if a leaf is quantized by both.
        """
        if both := set(self.plan.quantizers) & set(other.plan.quantizers):
            raise ValueError(f"{sorted(both)} would be quantized twice; leave them to one of the two sets of rules")
        quantizers = {**self.plan.quantizers, **other.plan.quantizers}
        skipped = {path: why for path, why in self.plan.skipped.items() if path not in quantizers}
        plan = Plan(quantizers, skipped, {**self.plan.shards, **other.plan.shards})
        return Quantized(plan, self.parameters | other.parameters, self.state | other.state, self.codes | other.codes)


def quantize_tree(params: Any, rules: Sequence[Rule] | Quantizer) -> Quantized:
    """Plan the quantization of `params`, and start its levels, potentials and codes.

    Args:
      params: any tree of arrays.
      rules: `Rule`s, first match wins; or one quantizer, which stands for `default_rules`.

    Returns:
      The `Quantized` of the tree, with the codes that its quantizers start from.

    Raises:
      ValueError: if a rule decides nothing, or a quantizer does not fit its leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax import MEC, PerChannel, Rule, quantize_tree
      >>> params = {"up": {"kernel": jnp.ones((4, 6))}, "down": {"kernel": jnp.ones((6, 4))}}
      >>> quantized = quantize_tree(params, [Rule("up/kernel", MEC(bits=2, granularity=PerChannel()))])
      >>> quantized.parameters["up/kernel"]["levels"].shape
      (6, 4)
    """
    plan = make_plan(params, rules)
    leaves = leaves_by_path(params)
    parameters, state = {}, {}
    for path, quantizer in plan.quantizers.items():
        leaf = leaves[path]
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"{path} is {leaf.dtype}; only floating weights can be quantized, exclude it by a rule")
        try:
            parameters[path], state[path] = init_jitted(quantizer, leaf)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    frozen: Quantized = _freeze(Quantized(plan, parameters, state, {}), params)
    return frozen


_freeze = jax.jit(Quantized.freeze)  # once for all trees of one plan and shapes


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
