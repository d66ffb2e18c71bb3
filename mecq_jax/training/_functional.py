"""Models as pure functions of trees of arrays, and the way back."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

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
    rebuild: Callable[[Any, Any], Any] = lambda params, _: params
    statistics: Callable[[Any], dict[str, Any]] = lambda _: {}


def functional(model: Any, loss_fn: Callable[..., Any], model_state: Any = None) -> Functional:
    """The pure functions of an NNX model, or of a tree of arrays, and of the loss that goes with it (see `fit`).

    Raises:
      ValueError: if an NNX model, which carries its state itself, comes with a `model_state`.
    """
    if isinstance(model, nnx.Module):
        if model_state is not None:
            raise ValueError("an NNX model carries its state itself; model_state goes with a tree of arrays")
        return _of_module(model, loss_fn)
    if model_state is not None:
        return Functional(model, model_state, loss_fn)

    def of_params(params: Any, model_state: Any, batch: Batch, rng: Key[Array, ""]) -> tuple[Array, Any]:
        loss, scalars = _with_scalars(loss_fn(params, batch))
        return loss, (model_state, scalars)

    return Functional(model, None, of_params)


def _of_module(model: nnx.Module, loss_fn: Callable[..., Any]) -> Functional:
    def carried_by(model: nnx.Module) -> dict[str, Any]:
        statistics, rest = nnx.state(model, nnx.BatchStat, nnx.Not(nnx.Any(nnx.Param, nnx.BatchStat)))
        return {"statistics": nnx.to_pure_dict(statistics), "rest": nnx.to_pure_dict(rest)}

    def rebuild(params: Any, model_state: Any) -> nnx.Module:
        states = (nnx.State(tree) for tree in (params, *model_state.values()))
        # Copies, since a merged model takes its arrays over and a forward pass writes to what it carries.
        merged: nnx.Module = nnx.merge(graphdef, *states, copy=True)
        return merged

    def of_module(params: Any, model_state: Any, batch: Batch, rng: Key[Array, ""]) -> tuple[Array, Any]:
        merged = rebuild(params, model_state)
        loss, scalars = _with_scalars(loss_fn(merged, batch))
        return loss, (carried_by(merged), scalars)

    def statistics(model_state: Any) -> dict[str, Any]:
        return leaves_by_path(model_state["statistics"])

    graphdef = nnx.graphdef(model)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    return Functional(params, carried_by(model), of_module, rebuild, statistics)


def _with_scalars(returned: Any) -> tuple[Array, Mapping[str, Any]]:
    return returned if isinstance(returned, tuple) else (returned, {})
