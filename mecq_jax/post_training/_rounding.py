"""Rounding of trained weights to the nearest of equally spaced levels."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mecq_jax.granularity import to_groups
from mecq_jax.params import Quantized, Rule, leaves_by_path, quantize_tree
from mecq_jax.post_training._only import plan_of
from mecq_jax.quantizers import Quantizer
from mecq_jax.quantizers.baselines import STE

BOUNDS = ("absmax", "least_squares")
SHARES = 100  # bounds that are tried, as equal parts of the largest magnitude


def round_to_nearest(params: Any, rules: Sequence[Rule] | Quantizer, bound: str = "absmax") -> Quantized:
    """The nearest of k equally spaced levels of each group of weights; nothing is trained.

        q_j = a (2 j + 1 - k) / k,    j = 0 to k - 1

    Args:
      params: a tree of arrays.
      rules: with `STE` quantizers, whose number of levels and granularity count.
      bound: a is max|w| ('absmax'), or that of its 100 equal parts with the least |w - w^|^2 ('least_squares').

    Returns:
      The quantizers with their codes; `.hard(params)` is the rounded tree, `.to_tensors(params)` what `save` takes.

    Raises:
      ValueError: if the bound is unknown, or a rule names another quantizer.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax import STE, Rule
      >>> from mecq_jax.post_training import round_to_nearest
      >>> params = {"kernel": jnp.linspace(-1.0, 1.0, 16).reshape(4, 4)}
      >>> rounded = round_to_nearest(params, [Rule("kernel", STE(bits=2))]).hard(params)
      >>> jnp.unique(rounded["kernel"]).tolist()
      [-0.75, -0.25, 0.25, 0.75]
    """
    if bound not in BOUNDS:
        raise ValueError(f"bound {bound!r} is not one of {BOUNDS}")
    plan_of(STE, params, rules)
    quantized = quantize_tree(params, rules)
    if bound == "least_squares":
        leaves = leaves_by_path(params)
        state = {
            path: {"bound": least_squares_bound(quantizer, leaves[path])}
            for path, quantizer in quantized.plan.quantizers.items()
        }
        quantized = dataclasses.replace(quantized, state=state).freeze(params)
    return quantized


@partial(jax.jit, static_argnums=0)
def least_squares_bound(quantizer: STE, w: Array) -> Float[Array, " g"]:
    """The bound of least squared error of each group: argmin_a |w - w^_a|^2 over a = max|w| i / 100, i = 1 to 100.

    Args:
      quantizer: its number of levels and granularity count.
      w: weights, of any shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax import STE
      >>> from mecq_jax.post_training import least_squares_bound
      >>> weights = jnp.append(jnp.linspace(-1.0, 1.0, 99), 10.0)       # an outlier does not set the bound
      >>> bool(least_squares_bound(STE(bits=4), weights)[0] < 10.0)
      True
    """
    groups = to_groups(w, quantizer.granularity).astype(jnp.float32)
    largest = jnp.maximum(jnp.abs(groups).max(axis=1), 1e-30)
    shares = jnp.arange(1, SHARES + 1, dtype=jnp.float32) / SHARES

    def error(share: Float[Array, ""]) -> Float[Array, " g"]:
        state = {"bound": share * largest}
        codes = quantizer.group_codes(groups, {}, state).astype(jnp.int32)
        rounded = jnp.take_along_axis(quantizer.levels({}, state), codes, axis=1)
        return jnp.sum(jnp.square(groups - rounded), axis=1)

    return shares[jax.lax.map(error, shares).argmin(axis=0)] * largest
