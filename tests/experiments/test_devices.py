"""One training on one device, on eight, and in processes that talk to each other; what is saved on one goes on on
another."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import jax
import numpy as np
import pytest

import mecq_reader
from experiments import config as configs
from experiments import train
from experiments.models import small as models
from experiments.runtime import devices
from experiments.runtime.interruption import EXIT_STATUS, Interrupted
from experiments.runtime.run_folder import read_metrics
from experiments.tasks import registry as tasks
from experiments.training import run as runs
from experiments.training.recipe import quantized_trainer
from mecq_jax.params import leaves_by_path, quantize_tree

pytestmark = pytest.mark.usefixtures("standard_promotion")
CONFIG = "experiments/configs/digits_cnn.py"
SMALL = [
    "--model=norm_mlp",
    "--width=64",
    "--train_size=400",
    "--batch=40",
    "--float_epochs=1",
    "--soft_epochs=1",
    "--hard_epochs=1",
]
SPLIT = ["--fully_sharded", "--least=1024"]


def command(folder, *options):
    return [sys.executable, "-m", "experiments.train", "--config", CONFIG, "--folder", str(folder), *SMALL, *options]


# Without the suite's eight devices.
ENVIRONMENT = os.environ | {
    "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("host_platform_device_count=8", "host_platform_device_count=1")
}


def trained(folder, *options):
    """Train in processes of its own."""
    done = subprocess.run(command(folder, *options), capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def losses(folder):
    return np.array([r["loss"] for r in read_metrics(folder / "metrics.jsonl") if "loss" in r])


def same(folder, other):
    """That two runs logged the same losses and end in the same weights, up to the order of sums."""
    np.testing.assert_allclose(losses(folder), losses(other), rtol=2e-3)
    ours, theirs = (mecq_reader.read_dense(f / "model.safetensors") for f in (folder, other))
    for name, value in theirs.items():
        near = np.isclose(ours[name], value, rtol=2e-2, atol=2e-3)
        assert near.mean() > 0.995, name  # a weight on a border may take the next level


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a run on one device."""
    folder = tmp_path_factory.mktemp("alone")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        runs.run(configs.override(configs.load(CONFIG), SMALL), folder)
    assert losses(folder)[-1] < losses(folder)[0]
    return folder


@pytest.mark.parametrize("options", [[], SPLIT], ids=["whole", "split"])
def test_eight_devices_give_the_run_of_one(alone, tmp_path, options):
    given = ["--config", CONFIG, "--folder", str(tmp_path), "--devices=8", *options, *SMALL]
    assert train.main(given) == 0
    same(tmp_path, alone)


@pytest.mark.slow
def test_a_transformer_split_by_its_heads_gives_the_run_of_one(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "vit_tiny", partial(models.ViT, depth=2, heads=2))
    small = ["--config", CONFIG, *SMALL, "--model=vit_tiny", "--width=16"]
    assert train.main([*small, "--folder", str(tmp_path / "alone")]) == 0
    assert train.main([*small, "--folder", str(tmp_path / "split"), "--devices=8", "--tensor_parallel=2"]) == 0
    same(tmp_path / "split", tmp_path / "alone")


def test_two_processes_give_the_run_of_one(alone, tmp_path):
    trained(tmp_path, "--processes=2", *SPLIT)
    same(tmp_path, alone)
    assert json.loads((tmp_path / "versions.json").read_text())["device"]["count"] == 2


def test_what_is_split_lies_in_parts():
    where = train._devices(train._parser().parse_args(["--config", CONFIG, "--devices=8", *SPLIT]))
    assert where.parts == 8
    config = configs.override(configs.load(CONFIG), SMALL)
    task = tasks.make_task(config)
    quantized = where.split(quantize_tree(task.params, config.rules(task.order)), task.params)
    trainer = quantized_trainer(config, task.loss_fn, task.steps_per_epoch)
    state = where.place(trainer.init(task.params, quantized, task.model_state))
    path = next(iter(quantized.plan.shards))
    kernel = leaves_by_path(state.params)[path]
    assert kernel.addressable_shards[0].data.size * 8 == kernel.size
    assert state.quantized.codes[path].addressable_shards[0].data.size * 8 == kernel.size
    image = where.batch({"image": np.zeros((40, 8, 8, 1), np.uint8)})["image"]
    assert image.addressable_shards[0].data.shape[0] == 5


@pytest.mark.slow
def test_four_processes_give_the_run_of_one(alone, tmp_path):
    trained(tmp_path, "--processes=4", *SPLIT)
    same(tmp_path, alone)


def test_a_run_goes_on_on_other_devices(alone, tmp_path):
    """Stopped in the float phase on one device, in the soft phase on eight, ended on four: the run of one."""
    config = dataclasses.replace(configs.override(configs.load(CONFIG), SMALL), checkpoint_steps=3)
    stages = [(devices.ONE, 5), (devices.over(8, split=True, least=2**10), 9), (devices.over(4), None)]
    for i, (where, steps) in enumerate(stages):
        asked = iter(range(1, 10**6))
        stop = lambda steps=steps, asked=asked: next(asked) == steps  # noqa: E731
        if steps is None:
            runs.run(config, tmp_path, resume=True, devices=where)
        else:
            with pytest.raises(Interrupted):
                runs.run(config, tmp_path, resume=i > 0, devices=where, stop=stop)
    same(tmp_path, alone)


@pytest.mark.parametrize("to", ["parent", pytest.param("second", marks=pytest.mark.slow)])
def test_sigterm_stops_two_processes_with_a_checkpoint_and_two_go_on(tmp_path, to):
    config = dataclasses.replace(configs.override(configs.load(CONFIG), SMALL), float_epochs=4)
    runs.run(config, tmp_path / "alone")
    folder, options = tmp_path / "two", ["--processes=2", "--float_epochs=4", "--checkpoint_steps=1"]
    process = subprocess.Popen(
        command(folder, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    while not list((folder / "checkpoints").glob("float/*/about")):
        assert process.poll() is None, process.stderr.read()[-3000:]
        time.sleep(0.1)
    children = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "process 1"], capture_output=True, text=True)
    os.kill(process.pid if to == "parent" else int(children.stdout.split()[0]), signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == EXIT_STATUS, errors[-3000:]
    step = int(errors.split("stopped on request at step ")[1].split(";")[0])
    assert step < 60 and [p for p in (folder / "checkpoints").glob("*/*") if p.name.isdigit()]
    trained(folder, *options, "--resume")
    same(folder, tmp_path / "alone")


def test_what_does_not_split_is_refused(tmp_path, capsys):
    given = ["--config", CONFIG, "--folder", str(tmp_path / "run"), "--devices=8", *SMALL]
    assert train.main([*given, "--batch=60"]) == 2
    assert "batch = 60 does not split over 8 devices" in capsys.readouterr().err
    assert train.main([*given, "--tensor_parallel=3"]) == 2
    assert "tensor_parallel = 3 does not divide 8 devices" in capsys.readouterr().err
    assert train.main([*given, "--tensor_parallel=2"]) == 2
    assert "matches no leaf" in capsys.readouterr().err
    assert train.main([*given, "--processes=2"]) == 2
    assert "devices = 8 is of one process" in capsys.readouterr().err
    assert train.main([*given[:4], "--processes=0"]) == 2
    assert "processes = 0: it must be at least 1" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists() or not losses(tmp_path / "run").size
