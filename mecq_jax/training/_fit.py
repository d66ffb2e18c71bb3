"""The loop of all phases: from a float model to one that ships, by the number of steps alone.

    trained = fit(model, loss_fn, batches, MEC(bits=2), steps=2_000)
    trained.model                                  # levels[codes]: the network that ships
    save("model.safetensors", trained.tensors)

The float phase trains the weights, the soft phase lets the temperature fall while the network computes with soft
weights, the hard phase freezes the codes and trains what ships.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mecq_jax.params import Rule, default_rules, parameters_by_path, quantize_tree
from mecq_jax.quantizers import Quantizer
from mecq_jax.training._checkpoints import Checkpoints
from mecq_jax.training._functional import functional
from mecq_jax.training._phases import Phases, float_steps, quantized_steps, run_phases
from mecq_jax.training._sharding import Layout
from mecq_jax.training._steps import Metrics, Steps, TrainState

SAVES = 5  # checkpoints of the float training, and of the quantized one


class Progress(NamedTuple):
    """What `fit` says while it trains; an example is at `fit`.

    Attributes:
      phase: 'float', 'soft' or 'hard'.
      step: steps done, of all phases.
      steps: of all phases together.
      metrics: of the last step, by name (see `Metrics`).
    """

    phase: str
    step: int
    steps: int
    metrics: dict[str, float]


class Fitted(NamedTuple):
    """What `fit` returns; an example is there.

    Attributes:
      model: the network that ships, in the form that `fit` was given: an NNX model, or a parameter tree.
      tensors: every parameter by path as it ships, and an NNX model's batch statistics, for `mecq_jax.save`.
      state: the last `TrainState`, with the float weights, the quantizers and a tree's `model_state`.
      history: the `Progress` of this call: of every `log_every`-th step and of the last of the float and of the hard
        phase. Steps before the checkpoint that it went on from are not in it.
    """

    model: Any
    tensors: dict[str, Any]
    state: TrainState
    history: list[Progress]


def fit(
    model: Any,
    loss_fn: Callable[..., Any],
    batches: Iterable[Any],
    rules: Sequence[Rule] | Quantizer,
    *,
    steps: int,
    phases: Phases | None = None,
    model_state: Any = None,
    layout: Layout | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    log_every: int = 50,
    checkpoints: str | PathLike[str] | None = None,
    seed: int = 0,
    **recipe: Any,
) -> Fitted:
    """Train a model in float, then softly, then hard, and return what ships.

    Args:
      model: an NNX model, which is left as it is, or a tree of arrays (Linen, Equinox, Haiku).
      loss_fn: (model, batch) -> loss, or (loss, {name: scalar to report}), where `model` is what was given. With a
        `model_state`, as `Steps` takes it: (params, model_state, batch, rng) -> (loss, (model_state, scalars)).
      batches: an iterable of batches; one that ends is begun again.
      rules: `Rule`s by path, or one quantizer, which leaves the first and the last kernel float.
      steps: of all phases together.
      phases: steps of each phase; None is `Phases.of(steps)`. `Phases.of(steps, trained=True)` trains no float network.
      model_state: what a tree's network carries, such as batch statistics; an NNX model carries its state itself.
      layout: the devices of a mesh and what is split over them; None is the default device.
      progress: called with each `Progress` as it comes.
      log_every: steps from one `Progress` to the next.
      checkpoints: a folder to save to, and to go on from if it holds checkpoints of this training; the
        batches of the steps that are done are drawn and dropped.
      seed: of the step's random keys.
      recipe: learning_rate, optimizer and the other numbers of `quantized_steps`.

    Returns:
      A `Fitted`.

    Raises:
      ValueError: if the phases do not add up to `steps`, the batches end, a rule decides no leaf, or an NNX model comes
        with a `model_state`.
      FloatingPointError: if the loss of a step that is logged or saved is not finite.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from mecq_jax import MEC, Rule, fit
      >>> model = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
      >>> def loss_fn(model, batch):
      ...     return jnp.mean(jnp.square(model(batch) - 1.0))
      >>> trained = fit(model, loss_fn, [jnp.ones((2, 8))], [Rule("kernel", MEC(bits=1))], steps=16)
      >>> jnp.unique(trained.model.kernel[...]).size, sorted(trained.tensors)
      (2, ['bias', 'kernel'])
      >>> [(progress.phase, progress.step) for progress in trained.history]
      [('float', 8), ('hard', 16)]
    """
    phases = Phases.of(steps) if phases is None else phases
    if sum(phases) != steps or min(phases) < 0 or phases.soft_steps < 1:
        raise ValueError(f"{phases} must add up to steps = {steps}, with at least one soft step")
    if isinstance(rules, Quantizer):  # by the order of construction, which the pure trees below do not keep
        rules = default_rules(rules, parameters_by_path(model) if isinstance(model, nnx.Module) else model)
    net = functional(model, loss_fn, model_state)
    folder = None if checkpoints is None else Path(checkpoints)
    loop = _Loop(_endless(batches), steps, layout, progress, log_every, folder)
    float_key, key = jax.random.split(jax.random.key(seed))
    params, carried = net.params, net.model_state
    if phases.float_steps:
        float_training = float_steps(net.loss_fn, phases.float_steps, **recipe)
        state = float_training.init(_copied(params), None, _copied(carried), float_key)
        state = loop.train("float", float_training, state, ["float"] * phases.float_steps)
        params, carried = state.params, state.model_state
    quantized = quantize_tree(params, rules)
    quantized = quantized if layout is None else layout.split(quantized, params)
    training = quantized_steps(net.loss_fn, phases.soft_steps, phases.hard_steps, **recipe)
    state = training.init(_copied(params), quantized, _copied(carried), key)
    state = loop.train("quantized", training, state, ["soft"] * phases.soft_steps + ["hard"] * phases.hard_steps)
    tensors = {**state.quantized.to_tensors(state.params), **net.statistics(state.model_state)}
    return Fitted(net.rebuild(training.hard_params(state), state.model_state), tensors, state, loop.history)


def _copied(tree: Any) -> Any:
    """Fresh arrays: a step takes the buffers of its state over."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


@dataclasses.dataclass
class _Loop:
    """What the float and the quantized training of one `fit` share."""

    batches: Iterator[Any]
    all_steps: int
    layout: Layout | None
    progress: Callable[[Progress], None]
    log_every: int
    folder: Path | None
    history: list[Progress] = dataclasses.field(default_factory=list)
    done: int = 0  # steps of the trainings that have ended

    def train(self, name: str, steps: Steps, state: TrainState, phases: list[str]) -> TrainState:
        """The state after a step of each of the phases, from the last checkpoint on if there is one."""
        state = state if self.layout is None else self.layout.place(state)
        with contextlib.nullcontext() if self.folder is None else Checkpoints(self.folder / name) as store:
            if store is not None and (restored := store.restore(state)):
                state = restored.state
            for _ in range(int(state.step)):
                next(self.batches)
            each = self._watch(store, len(phases))
            state = run_phases(steps, state, phases, self.batches, layout=self.layout, each=each)
        self.done += len(phases)
        return state

    def _watch(self, store: Checkpoints | None, of: int) -> Callable[[int, str, TrainState, Metrics], None]:
        """What follows every step of a training `of` so many: a check, a line of history, a checkpoint."""

        def each(done: int, phase: str, state: TrainState, metrics: Metrics) -> None:
            step, last = self.done + done, done == of
            log = last or step % self.log_every == 0
            save = store is not None and (last or done % max(1, of // SAVES) == 0)
            if (log or save) and not math.isfinite(loss := float(metrics.loss)):
                raise FloatingPointError(f"the loss is {loss} at step {step} of {self.all_steps}; lower learning_rate")
            if log:
                self.history.append(Progress(phase, step, self.all_steps, metrics.as_floats(phase)))
                self.progress(self.history[-1])
            if store is not None and save:
                store.save(done, state)

        return each


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, again and again.

    Raises:
      ValueError: if there is none, or they cannot be begun again.
    """
    drawn = 0
    while True:
        before = drawn
        for batch in batches:
            drawn += 1
            yield batch
        if drawn == before:
            raise ValueError(
                f"the batches ended after {drawn}; give an iterable that can be begun again (a list, a loader), or an "
                "iterator without end"
            )
