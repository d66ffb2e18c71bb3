"""Batch-norm statistics for weights that they were not gathered with."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Key

from mecq_jax.training._steps import Batch, LossFn


@partial(jax.jit, static_argnums=0)
def _statistics(loss_fn: LossFn, params: Any, model_state: Any, batch: Batch, rng: Key[Array, ""]) -> Any:
    return loss_fn(params, model_state, batch, rng)[1][0]


def reestimate_batch_stats(
    loss_fn: LossFn, params: Any, model_state: Any, batches: Iterable[Batch], rng: Key[Array, ""]
) -> Any:
    """Batch-norm statistics for `params` (the hard weights): forward passes in training mode over `batches`.

    Compiled once for a loss function.

    Args:
      loss_fn: as of `Steps`.
      params: the weights that ship, `Quantized.hard(params)`.
      model_state: the statistics to start from.
      batches: augmented training batches, as in training; as many as 1 / (1 - momentum) a few times over.
      rng: key of the loss function.

    Returns:
      The new model state.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mecq_jax.training import reestimate_batch_stats
      >>> def loss_fn(params, model_state, batch, rng):
      ...     mean = 0.5 * model_state["mean"] + 0.5 * (params * batch).mean()
      ...     return mean, ({"mean": mean}, {})
      >>> state = {"mean": jnp.zeros(())}
      >>> reestimate_batch_stats(loss_fn, jnp.ones(()), state, [jnp.ones(4)] * 20, jax.random.key(0))["mean"].round(3)
      Array(1., dtype=float32)
    """
    for i, batch in enumerate(batches):
        model_state = _statistics(loss_fn, params, model_state, batch, jax.random.fold_in(rng, i))
    return model_state
