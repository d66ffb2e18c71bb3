"""Rules that name one kind of quantizer."""

from collections.abc import Sequence
from typing import Any

from mecq_jax.params import Plan, Rule, make_plan
from mecq_jax.quantizers import Quantizer


def plan_of(kind: type, params: Any, rules: Sequence[Rule] | Quantizer) -> Plan:
    """The plan of rules whose quantizers are all of `kind`.

    Raises:
      ValueError: if one is not.
    """
    plan = make_plan(params, rules)
    for path, quantizer in plan.quantizers.items():
        if not isinstance(quantizer, kind):
            raise ValueError(f"{path} has the quantizer {quantizer}; give it {kind.__name__}(...) in the rules")
    return plan
