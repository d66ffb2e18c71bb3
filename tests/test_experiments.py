"""A run from end to end: train, stop, resume, pack, reload in another process; the command line's refusals."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import config as configs
from experiments import run as runs
from experiments import train
from experiments.config import Config
from experiments.runfolder import read_metrics

TINY = Config(model="norm_mlp", train_size=320, width=8, batch=32, float_epochs=1, soft_epochs=2, hard_epochs=1)


pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_a_stopped_run_resumes_to_the_same_end(tmp_path):
    whole = runs.run(TINY, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(what, done, of):
        if what == "quantized (soft)" and done == 15:
            raise Stop

    with pytest.raises(Stop):
        runs.run(TINY, tmp_path / "parts", progress=stop)
    parts = runs.run(TINY, tmp_path / "parts", resume=True)
    assert dataclasses.replace(TINY) == TINY and parts.hard_accuracy == whole.hard_accuracy
    for name in np.load(whole.folder / "evaluated.npz").files:
        expected, got = (np.load(r.folder / "evaluated.npz")[name] for r in (whole, parts))
        np.testing.assert_array_equal(got, expected)
    steps = [[r["step"] for r in read_metrics(r.folder / "metrics.jsonl")] for r in (whole, parts)]
    assert steps[0] == steps[1]
    out = subprocess.run(
        [sys.executable, "-m", "experiments.verify", str(parts.folder)], check=True, capture_output=True, text=True
    )
    assert "predictions are the same" in out.stdout


def test_every_config_loads_and_builds_its_quantizer():
    found = sorted(Path("experiments/configs").glob("*.py"))
    assert len(found) >= 4
    for path in found:
        assert configs.load(path).quantizer().k >= 2


@pytest.mark.parametrize(
    "argument,message",
    [("--learning_rat=1", "unknown field"), ("--k=abc", "not of type int"), ("--method=round", "not one of"),
     ("--k=99", "2 to 16"), ("k=4", "write --field=value")],
)  # fmt: skip
def test_bad_fields_are_refused_before_training(argument, message, capsys):
    assert train.main(["--config", "experiments/configs/digits_cnn_w2.py", argument]) == 2
    assert message in capsys.readouterr().err


def test_overrides_have_the_fields_types():
    changed = configs.override(Config(), ["--learning_rate=1", "--train_size=None", "--dataset=cifar10", "--k=8"])
    assert changed.learning_rate == 1.0 and isinstance(changed.learning_rate, float)
    assert changed.train_size is None and changed.dataset == "cifar10" and changed.k == 8
