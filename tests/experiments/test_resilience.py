"""Runs killed, preempted, damaged, out of disk space, diverging: nothing is lost, and the end has the same bits."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.config import Config
from experiments.data.in_memory import epoch_indices
from experiments.runtime import divergence
from experiments.runtime.divergence import Diverged
from experiments.runtime.interruption import EXIT_STATUS, Interrupted
from experiments.runtime.run_folder import read_metrics
from experiments.tasks import classification as classify
from experiments.training import run as runs
from mecq_jax.training import Checkpoints

pytestmark = pytest.mark.usefixtures("standard_promotion")

TINY = (
    "model='norm_mlp', train_size=96, width=8, batch=16, float_epochs=2, soft_epochs=2, hard_epochs=1, "
    "checkpoint_steps=1"
)
# Trains as the command line does, and says so after every step. Asked for it, it dies at the n-th time that Python
# is about to open, make, rename or delete something in the run's folder, or has room for n more bytes in a file.
CHILD = """
import contextlib, os, resource, signal, sys
folder, config, mode, n = *sys.argv[1:4], int(sys.argv[4])
from experiments import train
seen = 0
def watch(event, arguments):
    global seen
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and folder in str(arguments[0]):
        seen += 1
        if seen == n:
            os.kill(os.getpid(), signal.SIGKILL)
if mode == "event":
    sys.addaudithook(watch)
@contextlib.contextmanager
def bar(**_):
    def progress(what, done, of):
        print(what, done, flush=True)
        if mode == "full" and what == "quantized (soft)" and done == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))
    yield progress
train.console.bar = bar
sys.exit(train.main(["--config", config, "--folder", folder, "--resume"]))
"""


class Launcher:
    """Starts trainings as processes that share what they compile."""

    def __init__(self, root: Path):
        self.config, self.cache = root / "config.py", root / "compiled"
        self.config.write_text(f"from experiments.config import Config\nconfig = Config({TINY})\n")

    def start(self, folder: Path, mode: str = "whole", n: int = 0, flags: str = "") -> subprocess.Popen:
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        environment["XLA_FLAGS"] = environment["XLA_FLAGS"] + " " + flags
        command = [sys.executable, "-c", CHILD, str(folder), str(self.config), mode, str(n)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def finish(self, folder: Path, **options) -> str:
        """Run to the end; what it wrote to stderr."""
        process = self.start(folder, **options)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return errors


@pytest.fixture(scope="module")
def launcher(tmp_path_factory) -> Launcher:
    return Launcher(tmp_path_factory.mktemp("launcher"))


@pytest.fixture(scope="module")
def whole(launcher, tmp_path_factory) -> Path:
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    launcher.finish(folder)
    return folder


def test_a_run_is_verified_in_another_process(whole):
    """The packed file gives the weights and predictions that the run evaluated."""
    what = ["verify", "--predictions", "--model=experiments.portability.forward:predictions", "--run", str(whole)]
    done = subprocess.run([sys.executable, "-m", "mecq_jax.cli", *what], capture_output=True, text=True)
    assert done.returncode == 0 and "predictions are the same" in done.stdout, done.stderr


def final_state(folder):
    store = Checkpoints(folder / "checkpoints" / "quantized")
    with ocp.StandardCheckpointer() as reader:
        return store.steps()[-1], reader.restore(store.folder / str(store.steps()[-1]) / "state")


def assert_same_run(folder, whole):
    """The files, the log and the last state, bit for bit."""
    for name in ("metrics.jsonl", "float.safetensors", "model.safetensors", "evaluated.npz"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    (step, got), (expected_step, expected) = final_state(folder), final_state(whole)
    assert step == expected_step
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    names = [{p.name for p in f.iterdir() if not p.name.startswith("versions.")} for f in (folder, whole)]
    assert names[0] == names[1], "something was left behind"


def kill_once(launcher, folder, rng) -> bool:
    """Start or resume the run and kill it at a random moment; False if it ended before."""
    if rng.random() < 0.5:
        process = launcher.start(folder, "event", rng.randrange(1, 400))
    else:
        process = launcher.start(folder)
        if rng.random() < 0.8:
            process.stdout.readline()  # the first step is done
        time.sleep(rng.uniform(0.0, 2.0))
        process.kill()
    _, errors = process.communicate(timeout=300)
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode != 0


def unfinished(folder) -> set:
    """The saves that a kill cut short."""
    return {(p, p.stat().st_ctime_ns) for p in folder.glob("checkpoints/*/*.orbax-checkpoint-tmp")}


def kill_and_resume(launcher, whole, root, kills, seed) -> int:
    """Runs killed and resumed until there were so many kills; every one is taken to its end and compared.

    Gives how many kills were in the middle of a save, which leaves a folder that is never taken for a checkpoint."""
    rng, killed, ended, in_a_save = random.Random(seed), 0, 0, 0
    while killed < kills:
        folder = root / str(ended)
        before = unfinished(folder)
        while killed < kills and kill_once(launcher, folder, rng):
            killed += 1
            in_a_save += bool(unfinished(folder) - before)
            before = unfinished(folder)
        launcher.finish(folder)
        assert_same_run(folder, whole)
        ended += 1
    print(f"{killed} kills ({in_a_save} in a save), {ended} runs, all with the bits of the uninterrupted one")
    return in_a_save


def test_runs_killed_at_random_moments_end_in_the_same_bits(launcher, whole, tmp_path):
    kill_and_resume(launcher, whole, tmp_path, kills=4, seed=0)


@pytest.mark.slow
def test_fifty_kills(launcher, whole, tmp_path):
    assert kill_and_resume(launcher, whole, tmp_path, kills=50, seed=1) >= 5


def test_sigterm_saves_the_step_and_says_so(launcher, whole, tmp_path):
    process = launcher.start(tmp_path / "run")
    assert any(line.startswith("quantized (soft) 3") for line in process.stdout)
    process.terminate()
    steps, errors = process.communicate(timeout=300)
    assert process.returncode == EXIT_STATUS, errors
    (step,) = Checkpoints(tmp_path / "run" / "checkpoints" / "quantized").steps()[-1:]
    last = steps.splitlines()[-1].split()[-1] if steps else "3"
    assert int(last) == step, "the step that it was at is not lost"
    assert f"step {12 + step}" in errors and "--resume" in errors and str(tmp_path) in errors
    launcher.finish(tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_a_run_resumes_on_another_number_of_devices(launcher, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "model.safetensors").unlink()
    store = Checkpoints(folder / "checkpoints" / "quantized")
    shutil.rmtree(store.folder / str(store.steps()[-1]))
    launcher.finish(folder, flags="--xla_force_host_platform_device_count=1")
    counts = [json.loads(p.read_text())["device"]["count"] for p in folder.glob("versions*.json")]
    assert sorted({*counts}) == [1, 8]
    assert_same_run(folder, whole)


def test_a_damaged_checkpoint_costs_its_steps_only(launcher, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    store = Checkpoints(folder / "checkpoints" / "quantized")
    latest, before = (store.folder / str(s) for s in store.steps()[:-3:-1])
    for path in latest.rglob("d/*"):  # some of them hold what another one holds too
        path.write_bytes(bytes(b ^ 16 for b in path.read_bytes()))
    errors = launcher.finish(folder)
    assert f"{latest} is damaged" in errors and f"goes on from {before}" in errors
    assert_same_run(folder, whole)


@pytest.mark.slow  # its part in `Store` is tested at any time
def test_a_full_disk_is_an_error_that_leaves_the_last_checkpoint(launcher, whole, tmp_path):
    folder = tmp_path / "run"
    process = launcher.start(folder, "full", 3000)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2 and "Traceback" not in errors
    assert str(folder) in errors and "free space" in errors and "--resume" in errors
    assert Checkpoints(folder / "checkpoints" / "quantized").steps()
    launcher.finish(folder)
    assert_same_run(folder, whole)


NAN = Config(
    model="norm_mlp", train_size=96, width=8, batch=8, float_epochs=0, soft_epochs=2, hard_epochs=0, checkpoint_steps=4
)
POISON = 77


class Poisoned(classify.Task):
    """The loss is NaN where a batch begins with a marked image."""

    def loss_fn(self, params, model_state, batch, rng):
        loss, aux = super().loss_fn(params, model_state, batch, rng)
        return loss * jnp.where(batch["image"][0, 0, 0, 0] == POISON, jnp.nan, 1.0), aux


def poisoned(config, epoch, batch):
    """A task whose loss is NaN in this batch of this epoch (counted from 0)."""
    task = classify.make_task(config)
    images = task.dataset.train_images.copy()
    images[:, 0, 0, 0] = 0
    images[epoch_indices(config.seed, epoch + 1, len(images), config.batch)[batch, 0], 0, 0, 0] = POISON
    task = dataclasses.replace(task, dataset=dataclasses.replace(task.dataset, train_images=images))
    return Poisoned(**{f.name: getattr(task, f.name) for f in dataclasses.fields(task)})


def test_a_loss_that_is_nan_stops_the_run_with_the_layers(tmp_path):
    with pytest.raises(Diverged) as caught:
        runs.run(NAN, tmp_path, task=poisoned(NAN, epoch=1, batch=6))
    text = str(caught.value)
    assert "the loss is nan at step 19 of the quantized phase" in text
    assert "Layers after step 20" in text and "Layers at the last checkpoint, step 16" in text and "roll_back" in text
    rows = [line.split() for line in text.splitlines() if line.split()[0] == "hidden/0/kernel"]
    assert rows[0][1:3] == ["0.0%", "nan"]
    step, state = final_state(tmp_path)
    assert step == 16 and not divergence.not_finite(state)
    weights = np.float64(state["params"]["hidden"]["0"]["kernel"])
    shown = [float(x) for x in rows[1][2:5]]
    np.testing.assert_allclose(shown, [weights.min(), weights.max(), weights.var()], rtol=1e-2)


def test_a_run_rolls_back_and_goes_on_in_another_order(tmp_path):
    config = dataclasses.replace(NAN, soft_epochs=0, float_epochs=2, on_nan="roll_back", roll_backs=2)
    told = "nan at step 19 .* Rolled back to step 16; 1 of 2 times"
    with pytest.warns(UserWarning, match=told):
        runs.run(config, tmp_path / "whole", task=poisoned(config, epoch=1, batch=6))
    records = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert [r["step"] for r in records if "loss" in r] == [1, 11, 12, 13, 23, 24]
    assert all(r["loss"] is not None for r in records if "loss" in r)
    record = json.loads((tmp_path / "whole" / "checkpoints" / "float" / "24" / "about" / "metadata").read_text())
    assert record["about"] == {"epoch": 2, "batch": 0, "roll_backs": 1, "per_epoch": 12}
    stops = iter([False] * 20 + [True])  # two steps after the roll-back
    with pytest.raises(Interrupted, match="at step 18;"), pytest.warns(UserWarning, match=told):
        runs.run(config, tmp_path / "parts", task=poisoned(config, 1, 6), stop=lambda: next(stops))
    runs.run(config, tmp_path / "parts", task=poisoned(config, 1, 6), resume=True)
    for name in ("metrics.jsonl", "float.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_roll_backs_are_bounded(tmp_path):
    config = dataclasses.replace(NAN, soft_epochs=0, float_epochs=1, on_nan="roll_back", roll_backs=1)
    task = poisoned(config, 0, 0)
    task.dataset.train_images[:, 0, 0, 0] = POISON  # whatever the order
    with pytest.raises(Diverged, match="rolled back 1 times; roll_backs = 1"), pytest.warns(match="1 of 1"):
        runs.run(config, tmp_path, task=task)
