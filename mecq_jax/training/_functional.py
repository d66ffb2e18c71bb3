"""Models as pure functions of trees of arrays, and the way back."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Key

from mecq_jax.params import leaves_by_path
from mecq_jax.training._steps import Batch, LossFn


@dataclasses.dataclass(frozen=True)
class Functional:
    """A model as its trees and a loss over them.

    Attributes:
      params: what optax trains.
      model_state: what the model carries.
      loss_fn: as of `Steps`.
      rebuild: (params, model_state) -> the model in the form that it was given in.
      statistics: model_state -> what of it ships, by path.
    """

    params: Any
    model_state: Any
    loss_fn: LossFn
    rebuild: Callable[[Any, Any], Any]
    statistics: Callable[[Any], dict[str, Any]]


def functional(model: Any, loss_fn: Callable[..., Any], model_state: Any = None) -> Functional:
    """The pure functions of an NNX model, or of a tree of arrays, and of the loss that goes with it (see `fit`)."""
    if isinstance(model, nnx.Module):
        return _of_module(model, loss_fn)
    if model_state is not None:
        return Functional(model, model_state, loss_fn, lambda params, _: params, lambda _: {})

    def of_params(params: Any, model_state: Any, batch: Batch, rng: Key[Array, ""]) -> Any:
        loss, scalars = _with_scalars(loss_fn(params, batch))
        return loss, (model_state, scalars)

    return Functional(model, None, of_params, lambda params, _: params, lambda _: {})


def _of_module(model: nnx.Module, loss_fn: Callable[..., Any]) -> Functional:
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]

    def rebuild(params: Any, model_state: Any) -> nnx.Module:
        # Copies, since a merged model takes its arrays over and a forward pass writes to what it carries.
        return nnx.merge(graphdef, nnx.State(params), nnx.State(model_state), copy=True)

    def of_module(params: Any, model_state: Any, batch: Batch, rng: Key[Array, ""]) -> Any:
        merged = rebuild(params, model_state)
        loss, scalars = _with_scalars(loss_fn(merged, batch))
        rest = nnx.split(merged, nnx.Param, ...)[2]  # type: ignore[misc]
        return loss, (nnx.to_pure_dict(rest), scalars)

    def statistics(model_state: Any) -> dict[str, Any]:
        kept = nnx.state(rebuild(params_, model_state), nnx.BatchStat)
        return leaves_by_path(nnx.to_pure_dict(kept))

    params_ = nnx.to_pure_dict(params)
    return Functional(params_, nnx.to_pure_dict(rest), of_module, rebuild, statistics)


def _with_scalars(returned: Any) -> tuple[Array, Mapping[str, Any]]:
    return returned if isinstance(returned, tuple) else (returned, {})


def copied(tree: Any) -> Any:
    """Fresh arrays: a training step takes its state's buffers over."""
    return jax.tree.map(lambda x: jax.numpy.array(x, copy=True) if not _is_key(x) else jax.numpy.copy(x), tree)


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
