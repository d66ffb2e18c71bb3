"""Optimizers that treat levels apart from weights."""

import jax
import optax


def optimizers(
    weights: optax.GradientTransformation, levels: optax.GradientTransformation
) -> optax.GradientTransformation:
    """`weights` for the model's parameters, `levels` for levels and steps (give it no weight decay)."""

    def labels(trained):
        return {group: jax.tree.map(lambda _, name=group: name, leaves) for group, leaves in trained.items()}

    return optax.partition({"weights": weights, "levels": levels}, labels)
