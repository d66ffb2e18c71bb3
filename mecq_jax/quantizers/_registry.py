"""Every quantizer by its name, for command lines and configuration files."""

from collections.abc import Callable
from functools import partial
from typing import Any

from mecq_jax.quantizers._base import Quantizer
from mecq_jax.quantizers._mec import MEC
from mecq_jax.quantizers.baselines import DKM, EWGS, LSQ, PARQ, SLB, STE, APoT, Balanced, DoReFa, HardForward

#: name -> what makes the quantizer; 'softmax' is the method without its marginal, an annealed softmax over learnable
#: levels.
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
      name: a key of `QUANTIZERS`.
      options: fields of its class, such as bits (or k) and granularity.

    Returns:
      The quantizer.

    Raises:
      ValueError: if the name is not in `QUANTIZERS`, or an option is out of its bounds.
      TypeError: if the class has no field of an option's name, or an option is of the wrong type.

    Example:
      >>> from mecq_jax.quantizers import QUANTIZERS, get_quantizer
      >>> get_quantizer("lsq", bits=2)
      LSQ(k=4, granularity=PerTensor())
      >>> "softmax" in QUANTIZERS
      True
    """
    if name not in QUANTIZERS:
        raise ValueError(f"quantizer {name!r} is not one of {sorted(QUANTIZERS)}")
    return QUANTIZERS[name](**options)
