"""Training: one pure step per phase over (state, batch), for any model that is a function of a parameter tree.

    loss = task(soft(params)) + lambda(t) * mean entropy
    phases: 'float'  params as they are
            'soft'   soft weights, temperature(t) and lambda(t) by optax schedules
            'hard'   levels[codes] with the codes frozen: what trains is what ships

    steps = Steps(plan=plan, loss_fn=loss_fn, optimizer=optimizers(adam, adam), temperature=..., entropy_weight=...)
    state = steps.init(params, quant, quant_state, model_state, jax.random.key(0))
    state, metrics = jax.jit(steps.soft_step, donate_argnums=0)(state, batch)

The steps follow the sharding of their inputs; `sharding.Layout` says where state and batch lie, and jit inserts what
must move.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from mecq_jax.params import (
    Codes,
    Plan,
    QuantTree,
    StateTree,
    apply_codes,
    apply_tree,
    codes_tree,
    leaves_by_path,
    mean_entropy,
    replace_leaves,
)

Batch = Any
# (params, model_state, batch, rng) -> (task loss, (model_state, scalars to report))
LossFn = Callable[[Any, Any, Batch, Key[Array, ""]], tuple[Float[Array, ""], tuple[Any, dict[str, Array]]]]


class TrainState(NamedTuple):
    """All that the next step needs; a pytree that orbax saves as it is.

    Attributes:
      step: steps done in this run.
      params: the model's parameter tree (float weights).
      quant: levels or steps by path, trained.
      quant_state: potentials by path, carried.
      model_state: what the model carries (batch-norm statistics).
      opt_state: the optimizer's.
      codes: uint8 by path: the last codes, frozen in the hard phase.
      rng: key from which each step's key is folded.
    """

    step: Int[Array, ""]
    params: Any
    quant: QuantTree
    quant_state: StateTree
    model_state: Any
    opt_state: Any
    codes: Codes
    rng: Key[Array, ""]


class Metrics(NamedTuple):
    """What one step reports, all scalars.

    Attributes:
      loss: total loss.      task: the task's part.
      entropy: mean entropy of the assignment, nats.      temperature: epsilon / var(w).
      marginal_error: worst k max_j |b_j - m_j|.      converged: share of solves within tolerance.
      certain_share: share of weights with max p > 0.99.      min_level_mass: emptiest level's mass, times k.
      flips: share of weights whose code changed since the last step.
      scalars: what the loss function reports.
    """

    loss: Float[Array, ""]
    task: Float[Array, ""]
    entropy: Float[Array, ""]
    temperature: Float[Array, ""]
    marginal_error: Float[Array, ""]
    converged: Float[Array, ""]
    certain_share: Float[Array, ""]
    min_level_mass: Float[Array, ""]
    flips: Float[Array, ""]
    scalars: dict[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """The three steps and what they share; no state.

    Attributes:
      plan: which leaves are quantized and how, from `tree.quantize_tree`.
      loss_fn: (params, model_state, batch, rng) -> (task loss, (model_state, scalars)).
      optimizer: over {'weights': params, 'levels': quant}; see `optimizers`.
      temperature: schedule of the temperature, epsilon / var(w).
      entropy_weight: schedule of lambda.
    """

    plan: Plan
    loss_fn: LossFn
    optimizer: optax.GradientTransformation
    temperature: optax.Schedule
    entropy_weight: optax.Schedule

    def init(
        self, params: Any, quant: QuantTree, quant_state: StateTree, model_state: Any, rng: Key[Array, ""]
    ) -> TrainState:
        """The state before the first step."""
        opt_state = self.optimizer.init({"weights": params, "levels": quant})
        codes = jax.jit(partial(codes_tree, self.plan))(params, quant, quant_state)
        return TrainState(jnp.zeros((), jnp.int32), params, quant, quant_state, model_state, opt_state, codes, rng)

    def float_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """A step of the float network: the quantizers are left out."""

        def forward(trained):
            return trained["weights"], state.quant_state, {}

        return self._step(state, batch, forward, "float")

    def soft_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """A step through soft weights at temperature(step)."""
        temperature = jnp.asarray(self.temperature(state.step), jnp.float32)

        def forward(trained):
            return apply_tree(self.plan, trained["weights"], trained["levels"], state.quant_state, temperature)

        return self._step(state, batch, forward, "soft")

    def hard_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """A step of the network that ships: codes frozen, levels and float leaves train, exact gradients."""

        def forward(trained):
            hard = apply_codes(self.plan, trained["weights"], trained["levels"], state.quant_state, state.codes)
            return hard, state.quant_state, {}

        return self._step(state, batch, forward, "hard")

    def settle(self, state: TrainState) -> TrainState:
        """The state with potentials and codes of its present weights (a step leaves those of the old)."""
        temperature = jnp.asarray(self.temperature(state.step), jnp.float32)
        _, quant_state, _ = apply_tree(self.plan, state.params, state.quant, state.quant_state, temperature)
        codes = codes_tree(self.plan, state.params, state.quant, quant_state)
        return state._replace(quant_state=quant_state, codes=codes)

    def hard_params(self, state: TrainState) -> Any:
        """The parameter tree that ships: levels[codes] of the state's codes."""
        return apply_codes(self.plan, state.params, state.quant, state.quant_state, state.codes)

    def soft_params(self, state: TrainState) -> Any:
        """The parameter tree that the soft phase computes with, at temperature(step)."""
        temperature = jnp.asarray(self.temperature(state.step), jnp.float32)
        return apply_tree(self.plan, state.params, state.quant, state.quant_state, temperature)[0]

    def _step(self, state, batch, forward, phase):
        rng = jax.random.fold_in(state.rng, state.step)
        temperature = jnp.asarray(self.temperature(state.step), jnp.float32)
        weight = jnp.asarray(self.entropy_weight(state.step), jnp.float32)

        def objective(trained):
            used, quant_state, info = forward(trained)
            task, (model_state, scalars) = self.loss_fn(used, state.model_state, batch, rng)
            entropy = mean_entropy(self.plan, trained["weights"], info)
            return task + weight * entropy, (task, entropy, quant_state, info, model_state, scalars)

        trained = {"weights": state.params, "levels": state.quant}
        (loss, aux), gradients = jax.value_and_grad(objective, has_aux=True)(trained)
        task, entropy, quant_state, info, model_state, scalars = aux
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, trained)
        if phase == "hard":
            # Weights behind frozen codes have no gradient, but weight decay or momentum would still move them.
            still = {path: jnp.zeros_like(leaves_by_path(state.params)[path]) for path in self.plan.quantizers}
            updates["weights"] = replace_leaves(updates["weights"], still)
        if phase == "float":
            updates["levels"] = jax.tree.map(jnp.zeros_like, updates["levels"])
        new = optax.apply_updates(trained, updates)
        codes = state.codes
        if phase == "soft":
            codes = codes_tree(self.plan, state.params, state.quant, quant_state)
        metrics = Metrics(
            loss=loss,
            task=task,
            entropy=entropy,
            temperature=temperature,
            marginal_error=_over(info, "marginal_error", jnp.max, 0.0),
            converged=_over(info, "converged", jnp.mean, 1.0),
            certain_share=_over(info, "certain_share", jnp.mean, 1.0),
            min_level_mass=_over(info, "min_level_mass", jnp.min, 1.0),
            flips=_flips(state.codes, codes),
            scalars=scalars,
        )
        return (
            TrainState(
                state.step + 1, new["weights"], new["levels"], quant_state, model_state, opt_state, codes, state.rng
            ),
            metrics,
        )


def _over(info, name, reduce, empty):
    values = [getattr(i, name) for i in info.values()]
    return reduce(jnp.stack(values)) if values else jnp.asarray(empty, jnp.float32)


def _flips(before, after):
    total = sum(c.size for c in before.values())
    changed = [jnp.sum(before[path] != after[path]).astype(jnp.float32) for path in before]
    return jnp.stack(changed).sum() / total if changed else jnp.zeros((), jnp.float32)
