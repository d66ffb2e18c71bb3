"""The entropy of a whole tree, which training adds to the loss."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from mecq_jax.params._paths import leaves_by_path
from mecq_jax.quantizers import Diagnostics


def mean_entropy(params: Any, diagnostics: Mapping[str, Diagnostics]) -> Float[Array, ""]:
    """Mean entropy of an assignment over all quantized weights, in nats.

        H = sum_l n_l H_l / sum_l n_l, over leaves l of n_l weights

    Args:
      params: the tree that was quantized.
      diagnostics: of `Quantized.soft`, by path.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax import MEC, Rule, quantize_tree
      >>> from mecq_jax.params import mean_entropy
      >>> params = {"kernel": jnp.linspace(-1.0, 1.0, 64).reshape(8, 8)}
      >>> _, _, diagnostics = quantize_tree(params, [Rule("kernel", MEC(bits=1))]).soft(params, 100.0)
      >>> round(float(mean_entropy(params, diagnostics)), 2)      # of a nearly uniform assignment: log 2
      0.69
    """
    leaves = leaves_by_path(params)
    sizes = {path: leaves[path].size for path in diagnostics}
    total = sum(sizes.values())
    parts = (diagnostics[path].entropy * (size / total) for path, size in sizes.items())
    return sum(parts, jnp.zeros((), jnp.float32))
