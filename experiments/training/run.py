"""One run: float, soft and hard phases of a config, resumable at any step, ending in a packed artifact."""

import dataclasses
import io
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import mecq_reader
from experiments.config import Config
from experiments.data.names import by_path
from experiments.runtime.devices import ONE, Devices
from experiments.runtime.run_folder import RunFolder, Unwritten, read_metrics
from experiments.tasks import registry as tasks
from experiments.tasks.base import Task
from experiments.training.loop import Course, Progress, Session, train
from experiments.training.recipe import float_trainer, phases, quantized_trainer
from mecq_jax import storage
from mecq_jax.params import Report, leaves_by_path, make_report, quantize_tree, replace_leaves
from mecq_jax.training import Steps, TrainState, host_copy, of_first, writes


class Result(NamedTuple):
    """What a run ended with; scores are the task's measure on the test set.

    float_score: of the float weights; soft_score: at the end of the soft phase, and soft_to_hard_gap what
    taking each weight's most probable level cost there; hard_score: of the file, after the last epoch.
    """

    folder: Path
    float_score: float
    soft_score: float
    hard_score: float
    soft_to_hard_gap: float
    report: Report


def run(
    config: Config,
    root: Path,
    *,
    resume: bool = False,
    progress: Progress = lambda *_: None,
    task: Task | None = None,
    trace: Callable[[TrainState, Steps], None] = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
    devices: Devices = ONE,
) -> Result:
    """Train as `config` says in the folder `root`; with `resume`, go on from its last checkpoint.

    stop: asked after every step; at True the run writes a checkpoint and raises `Interrupted`. Several
    processes ask JAX instead, which hears of the SIGTERM of any of them.
    devices: where to compute. How the run ends depends on them by the order of sums alone, and it can go on on others.

    Raises:
      ValueError: if the config's batch does not split over the devices.
      divergence.Diverged: at a loss that is not finite; `config.on_nan` can roll back instead.
      checkpoint.CheckpointError: where the disk is full; the last checkpoint stays whole.
    """
    task = task or tasks.make_task(config)
    if task.config != config:
        task = dataclasses.replace(task, config=config)
    devices.check(config.batch)
    with _folder(config, root, resume) as folder, devices.in_use():
        session = Session(task, folder, progress, trace, stop, devices)
        params, model_state = _float_phase(session, resume)
        float_score = task.evaluate(params, model_state, devices)
        return _quantized_phases(session, params, model_state, float_score, resume)


def _folder(config: Config, root: Path, resume: bool) -> RunFolder | Unwritten:
    if not writes():
        return Unwritten(root)
    folder = RunFolder(root, dataclasses.asdict(config), resume=resume, defaults=dataclasses.asdict(Config()))
    if not resume:  # what an earlier run of the same config left would be taken for this one's
        shutil.rmtree(root / "checkpoints", ignore_errors=True)
        (root / "float.safetensors").unlink(missing_ok=True)
    return folder


def _float_phase(session: Session, resume: bool) -> tuple[Any, Any]:
    """Float weights: from another run's folder, from this one's float.safetensors, or trained."""
    task, config = session.task, session.task.config
    path = session.folder.root / "float.safetensors"
    source = Path(config.float_run) / "float.safetensors" if config.float_run else path

    def found() -> Any:
        if config.float_run and not source.is_file():
            missing = f"float_run = {config.float_run!r} holds no float.safetensors; finish that run first"
            raise FileNotFoundError(missing)
        there = config.float_run or (resume and path.is_file())
        return unflatten(mecq_reader.read_dense(source), task) if there else None

    if trained := of_first(found):
        return trained
    steps = config.float_epochs * task.steps_per_epoch
    trainer = float_trainer(config, task.loss_fn, steps, config.float_learning_rate)
    state = trainer.init(copied(task.params), None, copied(task.model_state), jax.random.key(config.seed))
    evaluate = {"float": lambda s: (s.params, s.model_state)}
    parts = [("float", trainer.float_step, config.float_epochs)]
    state = train(session, Course("float", parts, trainer, evaluate, offset=0), state, resume)
    params, model_state = host_copy((state.params, state.model_state))
    if writes():
        storage.save(path, named(params, model_state))
    return params, model_state


def _quantized_phases(session: Session, params: Any, model_state: Any, float_score: float, resume: bool) -> Result:
    task, config = session.task, session.task.config
    quantized = session.devices.split(quantize_tree(params, config.rules(task.order)), params)
    trainer = quantized_trainer(config, task.loss_fn, task.steps_per_epoch)
    state = trainer.init(copied(params), quantized, copied(model_state), jax.random.key(config.seed + 1))
    steps = {"soft": trainer.soft_step, "hard": trainer.hard_step}
    order = phases(config)
    parts = [(name, steps[name], order.count(name)) for name in ("soft", "hard")]
    soft_params, hard_params = jax.jit(trainer.soft_params), jax.jit(trainer.hard_params)
    evaluate = {"soft": lambda s: (soft_params(s), s.model_state), "hard": lambda s: (hard_params(s), s.model_state)}
    offset = config.float_epochs * task.steps_per_epoch if not config.float_run else 0
    state = train(session, Course("quantized", parts, trainer, evaluate, offset), state, resume)
    return _finish(session, trainer, state, params, float_score, offset)


def _finish(session, trainer, state, float_params, float_score, offset) -> Result:
    """Hard weights and what they are worth."""
    task, config, root = session.task, session.task.config, session.folder.root
    state = copied(host_copy(state._replace(opt_state=None, rng=None)))  # whole, on every device
    if "hard" not in phases(config):
        state = jax.jit(trainer.refresh_codes)(state)
    hard, hard_params = state.quantized.to_tensors(state.params), trainer.hard_params(state)
    predictions = task.predict(hard_params, state.model_state, session.devices)
    score = task.score(predictions)

    def written() -> Result:
        evaluated = [r for r in read_metrics(session.folder.metrics_path) if "soft_to_hard_gap" in r]
        last = evaluated[-1] if evaluated else {}
        soft, gap = (last.get(name, float("nan")) for name in (f"soft_{task.measure}", "soft_to_hard_gap"))
        path = root / "model.safetensors"
        storage.save(path, named(hard, state.model_state), extra={"config": dataclasses.asdict(config)})
        expected = {name: np.asarray(value) for name, value in leaves_by_path(hard_params).items()}
        archive = io.BytesIO()
        np.savez_compressed(archive, **(expected | {"predictions": predictions}))  # type: ignore[arg-type]
        storage.write_atomically(root / "evaluated.npz", archive.getvalue())
        finals = {"float": float_score, "soft": soft, "hard": score}
        named_finals = {f"final_{name}_{task.measure}": x for name, x in finals.items()}
        session.folder.log(offset + int(state.step), **named_finals)
        report = make_report(state.quantized.plan, float_params, hard, path)
        return Result(root, float_score, soft, score, gap, report)

    return of_first(written)


def copied(tree_: Any) -> Any:
    """Fresh arrays: the train step donates its state's buffers."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree_)


def named(params: Any, model_state: Any) -> dict[str, Any]:
    """The leaves of both trees by path, which is how a file and `mecq_jax.nn` name them."""
    return leaves_by_path(params) | leaves_by_path(model_state)


def unflatten(dense: Mapping[str, Any], task: Task) -> tuple[Any, Any]:
    """(params, model_state) of `task` with the arrays of a file, every one of which must be there in its shape."""
    dense, wanted = by_path(dense), named(task.params, task.model_state)
    for name, value in wanted.items():
        if name not in dense or dense[name].shape != value.shape:
            have = dense[name].shape if name in dense else "nothing"
            raise ValueError(f"the file holds {have} for {name}, the model needs {value.shape}; is it the same?")
    arrays = {name: jnp.asarray(dense[name], dtype=wanted[name].dtype) for name in wanted}
    return replace_leaves(task.params, arrays), replace_leaves(task.model_state, arrays)
