"""Hardening: from soft assignment to codes and levels, and the gap between them as a figure."""

from typing import Any

import numpy as np

from mecq_jax.grouping import to_groups
from mecq_jax.packing import HardTensor
from mecq_jax.rules import Plan, flatten
from mecq_jax.tree import Codes, QuantTree, StateTree, codes_tree


def harden_tree(
    plan: Plan, params: Any, quant: QuantTree, state: StateTree, codes: Codes | None = None
) -> dict[str, HardTensor | np.ndarray]:
    """Every leaf by path as it ships: quantized leaves as codes and levels, the others as they are.

    Args:
      plan, params, quant, state: see `tree`.
      codes: frozen codes of the hard phase; None takes each weight's most probable level.

    Raises:
      ValueError: if a level is not finite (training diverged).
    """
    codes = codes_tree(plan, params, quant, state) if codes is None else codes
    hard: dict[str, HardTensor | np.ndarray] = {}
    for path, leaf in flatten(params).items():
        if path not in plan.quantizers:
            hard[path] = np.asarray(leaf)
            continue
        quantizer = plan.quantizers[path]
        hard[path] = HardTensor(
            codes=np.asarray(to_groups(codes[path], quantizer.granularity)),
            levels=np.asarray(quantizer.levels(quant[path], state[path])),
            shape=tuple(leaf.shape),
            granularity=quantizer.granularity,
            dtype=str(leaf.dtype),
        )
    return hard


def squared_error(weights: Any, dense: Any) -> float:
    """|w - w^|^2 / |w - mean(w)|^2, the relative squared error; 0.1175 is the least for 4 levels on a Gaussian."""
    w, h = np.asarray(weights, np.float64), np.asarray(dense, np.float64)
    spread = float(np.sum(np.square(w - w.mean())))
    error = float(np.sum(np.square(w - h)))
    return error / spread if spread > 0 else float(error > 0)
