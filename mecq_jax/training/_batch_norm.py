"""Batch-norm statistics for weights that they were not gathered with."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Key

from mecq_jax.training._steps import Batch, LossFn


@partial(jax.jit, static_argnums=0)
def _statistics(loss_fn, params, model_state, batch, rng):
    return loss_fn(params, model_state, batch, rng)[1][0]


def reestimate_batch_stats(
    loss_fn: LossFn, params: Any, model_state: Any, batches: Iterable[Batch], rng: Key[Array, ""]
) -> Any:
    """Batch-norm statistics for `params` (the hard weights): forward passes in training mode over `batches`.

    Give it augmented training batches, as in training; as many as 1 / (1 - momentum) a few times over. Compiled once
    for a loss function.
    """
    for i, batch in enumerate(batches):
        model_state = _statistics(loss_fn, params, model_state, batch, jax.random.fold_in(rng, i))
    return model_state
