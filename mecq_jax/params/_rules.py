"""Rules: which leaves of a parameter tree are quantized, and how, by their paths.

A path is the keys from the root joined by '/', as in 'block1/conv/kernel'. The first rule whose pattern matches the
whole path decides; a leaf that no rule matches stays float; a rule that matches no leaf is an error.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mecq_jax.params._paths import leaves_by_path
from mecq_jax.quantizers import Quantizer


@dataclasses.dataclass(frozen=True)
class Rule:
    """Leaves whose whole path matches `pattern` get `quantizer`, or stay float if it is None.

    Attributes:
      pattern: a regular expression, matched against the whole path.
      quantizer: `MEC(...)`, `LSQ(...)`, `STE(...)` or None.
      reason: for the report, why the leaf stays float.

    Example:
      >>> from mecq_jax import MEC, Rule
      >>> from mecq_jax.params import make_plan
      >>> rules = [Rule("head/.*", None, "by hand"), Rule(".*/kernel", MEC(bits=2))]
      >>> plan = make_plan({"up": {"kernel": 1.0}, "head": {"kernel": 1.0}}, rules)
      >>> list(plan.quantizers), plan.skipped
      (['up/kernel'], {'head/kernel': 'by hand'})
    """

    pattern: str
    quantizer: Quantizer | None
    reason: str = "kept float by a rule"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the rules decide; an example is at `Rule`.

    Attributes:
      quantizers: path -> quantizer, of quantized leaves.
      skipped: path -> reason, of the others.
      shards: path -> parts along each axis, of quantized leaves that are split over devices
        (`mecq_jax.training.Layout.split`).
    """

    quantizers: Mapping[str, Quantizer]
    skipped: Mapping[str, str]
    shards: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def __hash__(self) -> int:
        # A plan is static data of a pytree (`Quantized`), which jit looks up by hash.
        return hash((*self.quantizers.items(), *self.skipped.items(), *self.shards.items()))


def default_rules(quantizer: Quantizer, params: Any, *, keep_first: bool = True, keep_last: bool = True) -> list[Rule]:
    """Quantize every kernel (a leaf of two or more dimensions named 'kernel') but those of the first and last layers.

    First and last are in the order of the tree's mappings: the order of construction where the tree keeps it. `jit`
    sorts mappings by name; where that changes the first or the last layer, write rules.

    Args:
      quantizer: of every kernel between first and last.
      params: any tree of arrays.
      keep_first: leave the first kernel float.
      keep_last: leave the last kernel float.

    Raises:
      ValueError: if no kernel is left between first and last.

    Example:
      >>> import numpy as np
      >>> from mecq_jax import MEC, default_rules
      >>> params = {name: {"kernel": np.ones((2, 2))} for name in ("stem", "middle", "head")}
      >>> [(rule.pattern, rule.quantizer is None) for rule in default_rules(MEC(bits=2), params)]
      [('stem/kernel', True), ('head/kernel', True), ('middle/kernel', False)]
    """
    kernels = [p for p, x in leaves_by_path(params).items() if p.split("/")[-1] == "kernel" and np.ndim(x) >= 2]
    if len(kernels) <= keep_first + keep_last:
        raise ValueError(f"only {len(kernels)} kernels {kernels}: nothing is left between first and last; give rules")
    rules = []
    if keep_first:
        rules.append(Rule(re.escape(kernels.pop(0)), None, "first layer"))
    if keep_last:
        rules.append(Rule(re.escape(kernels.pop()), None, "last layer"))
    return [*rules, Rule("|".join(map(re.escape, kernels)), quantizer)]


def make_plan(params: Any, rules: Sequence[Rule] | Quantizer) -> Plan:
    """Match every leaf of `params` against `rules`; an example is at `Rule`.

    Args:
      params: any tree of arrays.
      rules: `Rule`s, first match wins; or one quantizer, which stands for `default_rules`.

    Raises:
      ValueError: if a rule decides no leaf; the message lists the paths.
    """
    if not isinstance(rules, Sequence):
        rules = default_rules(rules, params)
    leaves = leaves_by_path(params)
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
