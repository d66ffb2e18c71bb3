"""A run's configuration: its files, its fields, and the command line's refusals. (Runs: `test_resilience`.)"""

from pathlib import Path

import pytest

from experiments import config as configs
from experiments import train
from experiments.config import Config

pytestmark = pytest.mark.fast


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
