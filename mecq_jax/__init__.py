"""mecq_jax: train JAX networks at 1 to 4 bits by maximum-entropy assignment of weights, and ship them packed.

Names are loaded on first use, so that `mecq_jax.reader` can be imported where JAX is not installed.
"""

import importlib

_HOME = {
    "PerTensor": "grouping",
    "PerChannel": "grouping",
    "PerBlock": "grouping",
    "Newton": "transport",
    "Sinkhorn": "transport",
    "Ott": "transport",
    "MEC": "mec",
    "LSQ": "uniform",
    "STE": "uniform",
    "make": "catalog",
    "Rule": "rules",
    "default_rules": "rules",
    "quantize_tree": "tree",
    "apply_tree": "tree",
    "QuantDense": "layers",
    "QuantConv": "layers",
    "quantize": "layers",
    "Trainer": "training",
    "harden_tree": "hardening",
    "save": "artifact",
    "load": "artifact",
    "verify": "artifact",
}
__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"mecq_jax.{_HOME[name]}"), name)
    raise AttributeError(f"module 'mecq_jax' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_HOME])
