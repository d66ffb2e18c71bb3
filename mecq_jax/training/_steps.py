"""One pure step per phase over (state, batch), for any model that is a function of a parameter tree.

    loss = task(soft(params)) + lambda(t) * mean entropy
    phases: 'float'  params as they are
            'soft'   soft weights, temperature(t) and lambda(t) by optax schedules
            'hard'   levels[codes] with the codes frozen: what trains is what ships

    steps = Steps(loss_fn=loss_fn, optimizer=optimizers(adam, adam), temperature=..., entropy_weight=...)
    state = steps.init(params, quantize_tree(params, rules))
    state, metrics = jax.jit(steps.soft_step, donate_argnums=0)(state, batch)

The steps follow the sharding of their inputs; `Layout` says where state and batch lie, and jit inserts what must move.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from mecq_jax.params import Quantized, leaves_by_path, mean_entropy, replace_leaves
from mecq_jax.quantizers import Diagnostics

Batch = Any  # what the loss function takes: any pytree of arrays
# (params, model_state, batch, rng) -> (task loss, (model_state, scalars to report))
LossFn = Callable[[Any, Any, Batch, Key[Array, ""]], tuple[Float[Array, ""], tuple[Any, dict[str, Array]]]]


class TrainState(NamedTuple):
    """All that the next step needs; a pytree that orbax saves as it is. An example is at `Steps`.

    Attributes:
      step: steps done in this run.
      params: the model's parameter tree (float weights).
      quantized: the quantizers' levels, potentials and codes: the last codes, frozen in the hard phase.
      model_state: what the model carries (batch-norm statistics).
      opt_state: the optimizer's.
      rng: key from which each step's key is folded.
    """

    step: Int[Array, ""]
    params: Any
    quantized: Quantized
    model_state: Any
    opt_state: Any
    rng: Key[Array, ""]


class Metrics(NamedTuple):
    """What one step reports, all scalars; an example is at `Steps`.

    Attributes:
      loss: total loss.
      task: the task's part.
      entropy: mean entropy of the assignment, nats.
      temperature: epsilon / var(w).
      marginal_error: worst k max_j |b_j - m_j|.
      converged: share of solves within tolerance.
      certain_share: share of weights with max p > 0.99.
      min_level_mass: emptiest level's mass, times k.
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

    def as_floats(self, phase: str) -> dict[str, float]:
        """The metrics that mean something in a phase, by name; the loss function's scalars among them.

        Outside of the soft phase nothing is assigned: there it is the loss and the scalars.
        """
        values = self._asdict()
        scalars = values.pop("scalars")
        values = values if phase == "soft" else {"loss": self.loss}
        return {name: float(value) for name, value in (values | scalars).items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """The three steps and what they share; no state.

    Attributes:
      loss_fn: (params, model_state, batch, rng) -> (task loss, (model_state, scalars)).
      optimizer: over {'weights': params, 'levels': parameters of the quantizers}; see `optimizers`.
      temperature: schedule of epsilon / var(w).
      entropy_weight: schedule of lambda.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from mecq_jax import MEC, Rule, quantize_tree
      >>> from mecq_jax.training import Steps, optimizers
      >>> def loss_fn(params, model_state, batch, rng):
      ...     return jnp.mean(jnp.square(batch @ params["kernel"])), (model_state, {})
      >>> params = {"kernel": jnp.linspace(-1.0, 1.0, 16).reshape(4, 4)}
      >>> steps = Steps(loss_fn=loss_fn, optimizer=optimizers(optax.sgd(0.1), optax.sgd(0.01)),
      ...               temperature=optax.constant_schedule(0.1), entropy_weight=optax.constant_schedule(0.0))
      >>> state = steps.init(params, quantize_tree(params, [Rule("kernel", MEC(bits=1))]))
      >>> state, metrics = jax.jit(steps.soft_step)(state, jnp.ones((2, 4)))
      >>> int(state.step), bool(metrics.loss >= 0), round(metrics.as_floats("soft")["temperature"], 2)
      (1, True, 0.1)
    """

    loss_fn: LossFn
    optimizer: optax.GradientTransformation
    temperature: optax.Schedule
    entropy_weight: optax.Schedule

    def init(
        self,
        params: Any,
        quantized: Quantized | None = None,
        model_state: Any = None,
        rng: Key[Array, ""] | None = None,
    ) -> TrainState:
        """The state before the first step.

        Args:
          params: the float weights.
          quantized: of `quantize_tree`; None is a float network's.
          model_state: what the model carries, such as batch statistics.
          rng: key that each step's is folded from; None is `jax.random.key(0)`.
        """
        quantized = Quantized.none() if quantized is None else quantized
        opt_state = self.optimizer.init({"weights": params, "levels": quantized.parameters})
        rng = jax.random.key(0) if rng is None else rng
        return TrainState(jnp.zeros((), jnp.int32), params, quantized, model_state, opt_state, rng)

    def float_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """A step of the float network: the quantizers are left out."""

        def forward(params: Any, quantized: Quantized) -> tuple[Any, Quantized, dict[str, Diagnostics]]:
            return params, quantized, {}

        return self._step(state, batch, forward, "float")

    def soft_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """A step through soft weights at temperature(step)."""
        temperature = jnp.asarray(self.temperature(state.step), jnp.float32)

        def forward(params: Any, quantized: Quantized) -> tuple[Any, Quantized, dict[str, Diagnostics]]:
            return quantized.soft(params, temperature)

        return self._step(state, batch, forward, "soft")

    def hard_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """A step of the network that ships: codes frozen, levels and float leaves train, exact gradients."""

        def forward(params: Any, quantized: Quantized) -> tuple[Any, Quantized, dict[str, Diagnostics]]:
            return quantized.hard(params), quantized, {}

        return self._step(state, batch, forward, "hard")

    def refresh_codes(self, state: TrainState) -> TrainState:
        """The state with potentials and codes of its present weights (a step leaves those of the old)."""
        temperature = jnp.asarray(self.temperature(state.step), jnp.float32)
        return state._replace(quantized=state.quantized.freeze(state.params, temperature))

    def soft_params(self, state: TrainState) -> Any:
        """The parameter tree that the soft phase computes with, at temperature(step)."""
        temperature = jnp.asarray(self.temperature(state.step), jnp.float32)
        return state.quantized.soft(state.params, temperature)[0]

    def hard_params(self, state: TrainState) -> Any:
        """The parameter tree that ships: levels[codes] of the state's codes."""
        return state.quantized.hard(state.params)

    def _step(
        self,
        state: TrainState,
        batch: Batch,
        forward: Callable[[Any, Quantized], tuple[Any, Quantized, dict[str, Diagnostics]]],
        phase: str,
    ) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(state.rng, state.step)
        temperature = jnp.asarray(self.temperature(state.step), jnp.float32)
        weight = jnp.asarray(self.entropy_weight(state.step), jnp.float32)

        def objective(trained: dict[str, Any]) -> tuple[Array, Any]:
            quantized = dataclasses.replace(state.quantized, parameters=trained["levels"])
            used, quantized, diagnostics = forward(trained["weights"], quantized)
            task, (model_state, scalars) = self.loss_fn(used, state.model_state, batch, rng)
            entropy = mean_entropy(trained["weights"], diagnostics)
            return task + weight * entropy, (task, entropy, quantized.state, diagnostics, model_state, scalars)

        trained = {"weights": state.params, "levels": state.quantized.parameters}
        (loss, aux), gradients = jax.value_and_grad(objective, has_aux=True)(trained)
        task, entropy, quantizer_state, diagnostics, model_state, scalars = aux
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, trained)
        if phase == "hard":
            # Weights behind frozen codes have no gradient, but weight decay or momentum would still move them.
            leaves = leaves_by_path(state.params)
            still = {path: jnp.zeros_like(leaves[path]) for path in state.quantized.plan.quantizers}
            updates["weights"] = replace_leaves(updates["weights"], still)
        if phase == "float":
            updates["levels"] = jax.tree.map(jnp.zeros_like, updates["levels"])
        new = optax.apply_updates(trained, updates)
        quantized = dataclasses.replace(state.quantized, state=quantizer_state)
        if phase == "soft":  # codes of the weights and levels that this step computed with
            quantized = quantized.freeze(state.params)
        metrics = Metrics(
            loss=loss,
            task=task,
            entropy=entropy,
            temperature=temperature,
            marginal_error=_over(diagnostics, "marginal_error", jnp.max, 0.0),
            converged=_over(diagnostics, "converged", jnp.mean, 1.0),
            certain_share=_over(diagnostics, "certain_share", jnp.mean, 1.0),
            min_level_mass=_over(diagnostics, "min_level_mass", jnp.min, 1.0),
            flips=_flips(state.quantized.codes, quantized.codes),
            scalars=scalars,
        )
        quantized = dataclasses.replace(quantized, parameters=new["levels"])
        return TrainState(state.step + 1, new["weights"], quantized, model_state, opt_state, state.rng), metrics


def _over(
    diagnostics: Mapping[str, Diagnostics], name: str, reduce: Callable[[Array], Array], empty: Any
) -> Float[Array, ""]:
    values = [getattr(d, name) for d in diagnostics.values()]
    return reduce(jnp.stack(values)) if values else jnp.asarray(empty, jnp.float32)


def _flips(before: Mapping[str, Array], after: Mapping[str, Array]) -> Float[Array, ""]:
    total = sum(c.size for c in before.values())
    changed = [jnp.sum(before[path] != after[path]).astype(jnp.float32) for path in before]
    return jnp.stack(changed).sum() / total if changed else jnp.zeros((), jnp.float32)
