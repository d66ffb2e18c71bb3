"""One training on one device, on eight, and in processes that talk to each other."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import config as configs
from experiments import devices

pytestmark = pytest.mark.usefixtures("standard_promotion")
SMALL = ["--model=norm_mlp", "--width=64", "--train_size=400", "--batch=40"]
STEPS = 12  # more than an epoch


def in_processes(*options):
    """What the command prints, without the suite's eight devices."""
    command = [sys.executable, "-m", "experiments.devices", "--steps", str(STEPS), *options, *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": ""})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def alone():
    """The losses on one device."""
    config = configs.override(configs.load(devices.DEFAULT), SMALL)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return devices.losses(config, STEPS, False, jax.devices()[:1])


def test_eight_devices_give_the_losses_of_one(alone):
    config = configs.override(configs.load(devices.DEFAULT), SMALL)
    np.testing.assert_allclose(devices.losses(config, STEPS, True), alone, rtol=1e-3)
    assert alone[-1] < alone[0]


def test_two_processes_give_the_losses_of_one(alone):
    found = in_processes("--processes=2")
    assert (found["devices"], found["processes"]) == (2, 2)
    np.testing.assert_allclose(found["losses"], alone, rtol=1e-3)


@pytest.mark.slow
def test_four_processes_give_the_losses_of_one(alone):
    found = in_processes("--processes", "4", "--fully_sharded")
    assert (found["devices"], found["processes"]) == (4, 4)
    np.testing.assert_allclose(found["losses"], alone, rtol=1e-3)


def test_a_batch_that_does_not_split_is_refused(capsys):
    with pytest.raises(SystemExit):
        devices.main(["--batch=60"])
    assert "batch = 60 does not split over 8 devices" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        devices.main(["--no_such=1"])
    assert "unknown field 'no_such'" in capsys.readouterr().err
