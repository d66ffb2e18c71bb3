"""Hardening: from soft assignment to codes and levels, and the gap between them as a figure."""

from typing import Any

import numpy as np

from mecq_jax.granularity import to_groups
from mecq_jax.params._paths import leaves_by_path
from mecq_jax.params._rules import Plan
from mecq_jax.params._tree import Codes, QuantTree, StateTree, codes_tree
from mecq_jax.storage import QuantizedTensor


def harden_tree(
    plan: Plan, params: Any, quant: QuantTree, state: StateTree, codes: Codes | None = None
) -> dict[str, QuantizedTensor | np.ndarray]:
    """Every leaf by path as it ships: quantized leaves as codes and levels, the others as they are.

    Args:
      plan, params, quant, state: see `tree`.
      codes: frozen codes of the hard phase; None takes each weight's most probable level.

    Raises:
      ValueError: if a level is not finite (training diverged).
    """
    codes = codes_tree(plan, params, quant, state) if codes is None else codes
    hard: dict[str, QuantizedTensor | np.ndarray] = {}
    for path, leaf in leaves_by_path(params).items():
        if path not in plan.quantizers:
            hard[path] = np.asarray(leaf)
            continue
        quantizer = plan.quantizers[path]
        hard[path] = QuantizedTensor(
            codes=np.asarray(to_groups(codes[path], quantizer.granularity)),
            levels=np.asarray(quantizer.levels(quant[path], state[path])),
            shape=tuple(leaf.shape),
            granularity=quantizer.granularity,
            dtype=str(leaf.dtype),
        )
    return hard
