"""A run's configuration: its files, its fields, and the command line's refusals. (Runs: `test_resilience`.)"""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import config as configs
from experiments import train
from experiments.config import Config
from experiments.runtime.run_folder import Unwritten
from experiments.tasks import classification as classify
from experiments.training import recipe
from experiments.training.loop import Session

pytestmark = pytest.mark.fast


def test_every_config_loads_and_builds_its_quantizer():
    found = sorted(Path("experiments/configs").glob("*.py"))
    assert len(found) >= 4
    for path in found:
        assert configs.load(path).quantizer().k >= 2


@pytest.mark.parametrize(
    "argument,message",
    [
        ("--learning_rat=1", "unknown field"),
        ("--k=abc", "not of type int"),
        ("--method=round", "not one of"),
        ("--k=99", "2 to 16"),
        ("k=4", "write --field=value"),
        ("--warmup=1", "a share in [0, 1)"),
        ("--clip=0", "above 0"),
        ("--size=32", "not of type"),
        ("--task=sort", "not one of"),
    ],
)
def test_bad_fields_are_refused_before_training(argument, message, capsys):
    assert train.main(["--config", "experiments/configs/digits_cnn.py", argument]) == 2
    assert message in capsys.readouterr().err


def test_an_epoch_can_be_a_part_of_the_examples(tmp_path):
    config = Config(train_size=96, batch=16, epoch_size=40)
    session = Session(classify.make_task(config), Unwritten(tmp_path))
    assert session.task.steps_per_epoch == 2
    first, second = (list(session.batches(number, 0, 0)) for number in (1, 2))
    assert len(first) == len(second) == 2
    assert not np.array_equal(first[0]["image"], second[0]["image"])
    (last,) = session.batches(1, 0, 1)
    np.testing.assert_array_equal(last["image"], first[1]["image"])
    with pytest.raises(ValueError, match="epoch_size = 15: it must be at least 16"):
        Config(batch=16, epoch_size=15)


def test_overrides_have_the_fields_types():
    changed = configs.override(Config(), ["--learning_rate=1", "--train_size=None", "--dataset=cifar10", "--k=8"])
    assert changed.learning_rate == 1.0 and isinstance(changed.learning_rate, float)
    assert changed.train_size is None and changed.dataset == "cifar10" and changed.k == 8
    assert configs.override(Config(), ["--size=180,240"]).size == (180, 240)
    assert Config(size=[180, 240]).size == (180, 240)  # as JSON gives it back


@pytest.mark.usefixtures("standard_promotion")
def test_rates_rise_and_fall_as_the_config_says():
    """Plain descent on a gradient of ones moves by the rate of each step."""
    config = Config(optimizer="sgd", levels_rate=0.1, warmup=0.2, hard_rate=0.5, learning_rate=1.0)
    config = dataclasses.replace(config, soft_epochs=2, hard_epochs=1)
    optimizer = recipe.quantized_trainer(config, lambda *_: None, 10).optimizer
    ones = {"weights": jnp.ones(()), "levels": jnp.ones(())}
    state, rates = optimizer.init(ones), []
    for _ in range(30):
        updates, state = optimizer.update(ones, state, ones)
        rates.append(-float(updates["weights"]))
        np.testing.assert_allclose(updates["levels"], 0.1 * updates["weights"], rtol=1e-5)
    steps = np.arange(30)
    want = np.where(steps < 4, steps / 4, 0.5 * (1 + np.cos(np.pi * (steps - 4) / 16)))
    want = np.where(steps < 20, want, 0.25 * (1 + np.cos(np.pi * (steps - 20) / 10)))
    push = 1 + 0.9 * (1 - 0.9 ** (steps + 1)) / 0.1  # Nesterov's momentum of a gradient that stays 1
    np.testing.assert_allclose(rates, want * push, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("standard_promotion")
def test_gradients_are_cut_to_a_global_norm():
    config = Config(optimizer="sgd", clip=1.0, levels_rate=1.0)
    optimizer = recipe.float_trainer(config, lambda *_: None, steps=10**6, peak=1.0).optimizer
    gradients = {"weights": jnp.full((), 30.0), "levels": jnp.full((), 40.0)}
    updates, _ = optimizer.update(gradients, optimizer.init(gradients), gradients)
    push = 1.9  # Nesterov's at the first step
    np.testing.assert_allclose([updates["weights"], updates["levels"]], [-0.6 * push, -0.8 * push], rtol=1e-5)
