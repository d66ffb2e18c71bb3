"""The plan for accelerators: its table is the one in the README, and scales as it should."""

import dataclasses
from pathlib import Path

import pytest

from experiments.reporting import plan

pytestmark = pytest.mark.fast


def test_the_readme_holds_the_table():
    assert plan.table() in Path(plan.__file__).parents[1].joinpath("README.md").read_text()


def test_time_falls_with_devices_and_the_method_does_not_grow_with_the_batch():
    network, device = plan.NETWORKS[1], plan.DEVICES[2]
    twice = plan.seconds(network, dataclasses.replace(device, count=2 * device.count))
    assert [2 * t for t in twice] == pytest.approx(plan.seconds(network, device))
    batch = plan.transformer("", network.weights, 24, 1024, 2 * 1024 * 197)
    once, more = plan.seconds(network, device), plan.seconds(batch, device)
    assert more[0] == pytest.approx(2 * once[0]) and more[1] == once[1]
