"""Every quantizer by one word: `make('lsq', k=4)`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from mecq_jax.quantizers._base import Quantizer
from mecq_jax.quantizers._mec import MEC
from mecq_jax.quantizers.baselines import DKM, EWGS, LSQ, PARQ, SLB, STE, APoT, Balanced, DoReFa, HardForward

QUANTIZERS: dict[str, Callable[..., Quantizer]] = {
    "mec": MEC,
    "mec_hard_forward": HardForward,
    "softmax": partial(MEC, balance=0.0),
    "ste": STE,
    "dorefa": DoReFa,
    "lsq": LSQ,
    "apot": APoT,
    "ewgs": EWGS,
    "balanced": Balanced,
    "parq": PARQ,
    "slb": SLB,
    "dkm": DKM,
}


def get_quantizer(name: str, **options: Any) -> Quantizer:
    """The quantizer of that name.

    Args:
      name: a key of `QUANTIZERS`; 'softmax' is the method without its masses (annealed softmax over learnable levels).
      options: fields of its class, such as k and granularity.
    """
    if name not in QUANTIZERS:
        raise ValueError(f"quantizer {name!r} is not one of {sorted(QUANTIZERS)}")
    return QUANTIZERS[name](**options)
