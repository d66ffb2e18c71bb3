"""One run: float, soft and hard phases of a config, resumable at every epoch, ending in a packed artifact."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import checkpoint, data
from experiments.classify import Task, make_task
from experiments.config import Config
from experiments.recipe import float_trainer, phases, quantized_trainer
from experiments.runfolder import RunFolder, read_metrics
from mecq_jax import artifact, reader, rules, tree
from mecq_jax.hardening import harden_tree
from mecq_jax.report import Report, make_report
from mecq_jax.rules import flatten
from mecq_jax.training import Trainer, TrainState

Progress = Callable[[str, int, int], None]  # (what, done, of)


class Result(NamedTuple):
    """What a run ended with; accuracies are shares of the test set.

    float_accuracy: of the float weights; soft_accuracy: at the end of the soft phase, and soft_to_hard_gap what
    taking each weight's most probable level cost there; hard_accuracy: of the file, after the last epoch.
    """

    folder: Path
    float_accuracy: float
    soft_accuracy: float
    hard_accuracy: float
    soft_to_hard_gap: float
    report: Report


@dataclasses.dataclass
class Session:
    """A task with its data on the device, its run folder and who is told of progress."""

    task: Task
    folder: RunFolder
    progress: Progress
    trace: Callable[[TrainState, Trainer], None] = lambda state, trainer: None

    def __post_init__(self):
        dataset = self.task.dataset
        self.images, self.labels = jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)
        self.steps_per_epoch = len(dataset.train_labels) // self.task.config.batch

    def jit_step(self, step: Callable) -> Callable:
        """`step` on batches gathered from the device's copy of the data, inside the jitted function."""
        # Python loops over this: convolutions inside lax.scan are many times slower on CPU.
        compiled = jax.jit(
            lambda state, images, labels, rows: step(state, {"image": images[rows], "label": labels[rows]}),
            donate_argnums=0,
        )
        return lambda state, rows: compiled(state, self.images, self.labels, rows)

    def epoch_rows(self, epoch: int) -> Iterator[np.ndarray]:
        """Row numbers of each batch of this epoch; a pure function of the seed and the epoch."""
        config = self.task.config
        yield from data.epoch_indices(config.seed, epoch, len(self.task.dataset.train_labels), config.batch)


def run(
    config: Config,
    root: Path,
    *,
    resume: bool = False,
    progress: Progress = lambda *_: None,
    task: Task | None = None,
    trace: Callable[[TrainState, Trainer], None] = lambda *_: None,
) -> Result:
    """Train as `config` says in the folder `root`; with `resume`, go on from its last checkpoint."""
    task = task or make_task(config)
    if task.config != config:
        task = dataclasses.replace(task, config=config)
    with RunFolder(root, dataclasses.asdict(config), resume=resume) as folder:
        session = Session(task, folder, progress, trace)
        params, model_state = _float_phase(session, resume)
        float_accuracy = task.accuracy(params, model_state)
        return _quantized_phases(session, params, model_state, float_accuracy, resume)


def _float_phase(session: Session, resume: bool) -> tuple[Any, Any]:
    """Float weights: from another run's folder, from this one's float.safetensors, or trained."""
    task, config = session.task, session.task.config
    path = session.folder.root / "float.safetensors"
    source = Path(config.float_run) / "float.safetensors" if config.float_run else path
    if config.float_run and not source.is_file():
        raise FileNotFoundError(f"float_run = {config.float_run!r} holds no float.safetensors; finish that run first")
    if config.float_run or (resume and path.is_file()):
        return unflatten(reader.read_dense(source), task)
    steps = config.float_epochs * session.steps_per_epoch
    trainer = float_trainer(config, task.loss_fn, steps, config.float_learning_rate)
    state = trainer.init(_copy(task.params), {}, {}, _copy(task.model_state), jax.random.key(config.seed))
    evaluate = {"float": lambda s: (s.params, s.model_state)}
    parts = [("float", trainer.float_step, config.float_epochs)]
    state = _epochs(session, state, parts, trainer, evaluate, resume, 0)
    artifact.save(path, named(state.params, state.model_state))
    return state.params, state.model_state


def _quantized_phases(
    session: Session, params: Any, model_state: Any, float_accuracy: float, resume: bool
) -> Result:
    task, config = session.task, session.task.config
    quantizer = config.quantizer()
    plan, quant, quant_state = tree.quantize_tree(params, rules.default_rules(quantizer, task.order))
    trainer = quantized_trainer(config, plan, task.loss_fn, session.steps_per_epoch)
    state = trainer.init(_copy(params), quant, quant_state, _copy(model_state), jax.random.key(config.seed + 1))
    steps = {"soft": trainer.soft_step, "hard": trainer.hard_step}
    order = phases(config)
    parts = [(name, steps[name], order.count(name)) for name in ("soft", "hard")]
    soft_params, hard_params = jax.jit(trainer.soft_params), jax.jit(trainer.hard_params)
    evaluate = {
        "soft": lambda s: (soft_params(s), s.model_state),
        "hard": lambda s: (hard_params(s), s.model_state),
    }
    offset = config.float_epochs * session.steps_per_epoch if not config.float_run else 0
    state = _epochs(session, state, parts, trainer, evaluate, resume, offset)
    return _finish(session, trainer, state, params, float_accuracy)


def _epochs(session, state, parts, trainer, evaluate, resume, offset):
    """Train through `parts` [(name, step, epochs)], evaluating and checkpointing after every epoch."""
    folder, per_epoch = session.folder, session.steps_per_epoch
    name = "float" if "float" in evaluate else "quantized"
    store = folder.root / "checkpoints" / name
    done = 0
    if resume and (found := checkpoint.restore(store, state)):
        done, state = found
    if resume:
        folder.resume_at(offset + done * per_epoch)
    settle = jax.jit(trainer.settle)
    compiled = {id(step): session.jit_step(step) for _, step, _ in parts}
    total = sum(epochs for _, _, epochs in parts)
    epoch = 0
    for phase, step, epochs in parts:
        for i in range(epochs):
            epoch += 1
            if epoch <= done:
                continue
            if phase == "hard" and i == 0:
                state = settle(state)
            for j, rows in enumerate(session.epoch_rows(epoch + offset)):
                state, metrics = compiled[id(step)](state, rows)
                if j % 10 == 0 or j == per_epoch - 1:
                    _log(folder, offset + int(state.step), phase, metrics)
                    session.trace(state, trainer)
                session.progress(f"{name} ({phase})", (epoch - 1) * per_epoch + j + 1, total * per_epoch)
            settled = settle(state) if phase == "soft" else state
            scores = {f"{k}_accuracy": session.task.accuracy(*f(settled)) for k, f in evaluate.items()}
            if "hard_accuracy" in scores and phase == "soft":
                scores["soft_to_hard_gap"] = scores["soft_accuracy"] - scores["hard_accuracy"]
            folder.log(offset + int(state.step), epoch=epoch, **scores)
            checkpoint.save(store, epoch, state)
    return state


def _log(folder: RunFolder, step: int, phase: str, metrics: Any) -> None:
    values = metrics._asdict()
    scalars = values.pop("scalars")
    if phase != "soft":
        values = {"loss": values["loss"]}
    folder.log(step, **{k: float(v) for k, v in (values | scalars).items()})


def _finish(session, trainer, state, float_params, float_accuracy) -> Result:
    task, config, root = session.task, session.task.config, session.folder.root
    evaluated = [r for r in read_metrics(session.folder.metrics_path) if "soft_to_hard_gap" in r]
    last = evaluated[-1] if evaluated else {}
    soft, gap = (last.get(name, float("nan")) for name in ("soft_accuracy", "soft_to_hard_gap"))
    if "hard" not in phases(config):
        state = jax.jit(trainer.settle)(state)
    hard = harden_tree(trainer.plan, state.params, state.quant, state.quant_state, state.codes)
    hard_params = trainer.hard_params(state)
    path = root / "model.safetensors"
    artifact.save(path, named(hard, state.model_state), extra={"config": dataclasses.asdict(config)})
    predictions = task.predict(hard_params, state.model_state)
    expected = {f"params/{name}": np.asarray(value) for name, value in flatten(hard_params).items()}
    np.savez(root / "evaluated.npz", **(expected | {"predictions": predictions}))  # type: ignore[arg-type]
    report = make_report(trainer.plan, float_params, hard, path)
    accuracy = float(np.mean(predictions == task.dataset.test_labels))
    session.folder.log(int(state.step), final_float_accuracy=float_accuracy, final_soft_accuracy=soft,
                       final_hard_accuracy=accuracy)
    return Result(root, float_accuracy, soft, accuracy, gap, report)


def _copy(tree_: Any) -> Any:
    """Fresh arrays: the train step donates its state's buffers."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree_)


def named(params: Any, model_state: Any) -> dict[str, Any]:
    """The leaves of both trees by the names that they have in a file."""
    leaves = {f"params/{n}": x for n, x in flatten(params).items()}
    return leaves | {f"state/{n}": x for n, x in flatten(model_state).items()}


def unflatten(dense: dict[str, np.ndarray], task: Task) -> tuple[Any, Any]:
    """(params, model_state) of `task` with the arrays of a file, every one of which must be there in its shape."""
    wanted = named(task.params, task.model_state)
    for name, value in wanted.items():
        if name not in dense or dense[name].shape != value.shape:
            have = dense[name].shape if name in dense else "nothing"
            raise ValueError(f"the file holds {have} for {name}, the model needs {value.shape}; is it the same?")
    arrays = {name: jnp.asarray(dense[name], dtype=wanted[name].dtype) for name in wanted}
    parts = []
    for prefix, tree_ in (("params/", task.params), ("state/", task.model_state)):
        leaves = {n.removeprefix(prefix): x for n, x in arrays.items() if n.startswith(prefix)}
        parts.append(tree.replace_leaves(tree_, leaves))
    return parts[0], parts[1]
