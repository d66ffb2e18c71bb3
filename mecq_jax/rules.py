"""Rules: which leaves of a parameter tree are quantized, and how, by their paths.

A path is the keys from the root joined by '/', as in 'block1/conv/kernel'. The first rule whose pattern matches the
whole path decides; a leaf that no rule matches stays float; a rule that matches no leaf is an error.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mecq_jax.quantizer import Quantizer


@dataclasses.dataclass(frozen=True)
class Rule:
    """Leaves whose whole path matches `pattern` get `quantizer`, or stay float if it is None.

    Attributes:
      pattern: a regular expression, matched against the whole path.
      quantizer: `MEC(...)`, `LSQ(...)`, `STE(...)` or None.
      reason: for the report, why the leaf stays float.
    """

    pattern: str
    quantizer: Quantizer | None
    reason: str = "kept float by a rule"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the rules decided.

    Attributes:
      quantizers: path -> quantizer, of quantized leaves.
      skipped: path -> reason, of the others.
      shards: path -> parts along each axis, of quantized leaves that are split over devices (`sharding.Layout.plan`).
    """

    quantizers: Mapping[str, Quantizer]
    skipped: Mapping[str, str]
    shards: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path, in the order in which nested mappings hold them."""
    if not isinstance(tree, Mapping):
        return {
            "/".join(_key(k) for k in path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        }
    out = {}
    for key, value in tree.items():
        # Leaves as JAX sees them, so that these paths are the ones `tree.replace_leaves` meets.
        if isinstance(value, Mapping) or not jax.tree_util.all_leaves([value]):
            out.update({f"{key}/{p}" if p else str(key): leaf for p, leaf in flatten(value).items()})
        else:
            out[str(key)] = value
    return out


def _key(key: Any) -> str:
    for name in ("key", "name", "idx"):
        if hasattr(key, name):
            return str(getattr(key, name))
    return str(key)


def default_rules(
    quantizer: Quantizer, params: Any, *, keep_first: bool = True, keep_last: bool = True
) -> list[Rule]:
    """Quantize every kernel (a leaf of two or more dimensions named 'kernel') but those of the first and last layers.

    First and last are in the order of the tree's mappings: the order of construction where the tree keeps it. `jit`
    sorts mappings by name; where that changes the first or the last layer, give rules of your own.
    """
    kernels = [p for p, x in flatten(params).items() if p.split("/")[-1] == "kernel" and np.ndim(x) >= 2]
    if len(kernels) <= keep_first + keep_last:
        raise ValueError(f"only {len(kernels)} kernels {kernels}: nothing is left between first and last; give rules")
    rules = []
    if keep_first:
        rules.append(Rule(re.escape(kernels.pop(0)), None, "first layer"))
    if keep_last:
        rules.append(Rule(re.escape(kernels.pop()), None, "last layer"))
    return [*rules, Rule("|".join(map(re.escape, kernels)), quantizer)]


def make_plan(params: Any, rules: Sequence[Rule] | Quantizer) -> Plan:
    """Match every leaf of `params` against `rules` (a quantizer alone stands for `default_rules`).

    Raises:
      ValueError: if a rule decides no leaf; the message lists the paths.
    """
    if not isinstance(rules, Sequence):
        rules = default_rules(rules, params)
    leaves = flatten(params)
    used: set[int] = set()
    quantizers, skipped = {}, {}
    for path, leaf in leaves.items():
        matching = [i for i, rule in enumerate(rules) if re.fullmatch(rule.pattern, path)]
        if not matching:
            skipped[path] = "a vector or scalar" if np.ndim(leaf) < 2 else "no rule matches"
            continue
        used.add(matching[0])
        rule = rules[matching[0]]
        if rule.quantizer is None:
            skipped[path] = rule.reason
        else:
            quantizers[path] = rule.quantizer
    for i, rule in enumerate(rules):
        if i not in used:
            shadow = " (earlier rules take every leaf that it matches)" if _matches(rule, leaves) else ""
            paths = "\n  ".join(leaves)
            raise ValueError(f"rule {i}, {rule.pattern!r}, decides no leaf{shadow}; the paths are\n  {paths}")
    return Plan(quantizers, skipped)


def _matches(rule: Rule, leaves: Mapping[str, Any]) -> bool:
    return any(re.fullmatch(rule.pattern, path) for path in leaves)
