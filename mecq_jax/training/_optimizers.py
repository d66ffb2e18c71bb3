"""Optimizers that treat levels apart from weights."""

from typing import Any

import jax
import optax


def optimizers(
    weights: optax.GradientTransformation, levels: optax.GradientTransformation
) -> optax.GradientTransformation:
    """`weights` for the model's parameters, `levels` for levels and steps (give it no weight decay).

    Args:
      weights: of the model's parameters.
      levels: of levels and steps.

    Returns:
      A transformation over {'weights': ..., 'levels': ...}, as `Steps` takes it.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from mecq_jax.training import optimizers
      >>> both = optimizers(optax.sgd(1.0), optax.sgd(0.1))
      >>> trained = {"weights": jnp.ones(2), "levels": jnp.ones(2)}
      >>> updates, _ = both.update(trained, both.init(trained), trained)
      >>> updates["weights"].tolist(), [round(x, 1) for x in updates["levels"].tolist()]
      ([-1.0, -1.0], [-0.1, -0.1])
    """

    def labels(trained: dict[str, Any]) -> dict[str, Any]:
        return {group: jax.tree.map(lambda _, name=group: name, leaves) for group, leaves in trained.items()}

    return optax.partition({"weights": weights, "levels": levels}, labels)
