"""Every config file loads; those of the large data sets take two float and two soft steps on mocks of their data.

The networks are narrow and not deep, and four of their kernels are quantized; the plan is made for all of them.
"""

import dataclasses
import re
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import classify, config, data, imagenet, imagenet_models
from experiments.config import Config
from experiments.imagenet_models import DeiT, MobileNetV2, ResNet
from experiments.recipe import float_trainer, quantized_trainer
from experiments.segmentation import ade20k, networks
from mecq_jax import Rule, default_rules, quantize_tree
from mecq_jax.rules import make_plan

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "configs"
ALL = sorted(path.stem for path in FOLDER.glob("*.py"))
MOCKED = [name for name in ALL if name.split("_")[0] in ("imagenet", "ade20k", "cifar100") and name.endswith("_float")]

pytestmark = pytest.mark.usefixtures("standard_promotion")


def load(name: str) -> Config:
    return config.load(FOLDER / f"{name}.py")


@pytest.mark.parametrize("name", ALL)
def test_it_loads(name):
    found = load(name)
    text = (FOLDER / f"{name}.py").read_text()
    assert "python -m experiments.train" in text and f"experiments/configs/{name}.py" in text
    if found.float_run:  # its float run is a config here, of the same network and data
        base = load(found.float_run.removeprefix("runs/"))
        for field in ("task", "dataset", "size", "context", "model", "width"):
            assert getattr(found, field) == getattr(base, field)


@pytest.mark.parametrize("name", MOCKED)
def test_widths_of_a_network_have_the_levels_that_they_say(name):
    for bits in (4, 3, 2):
        variant = load(name.replace("_float", f"_w{bits}"))
        assert variant.k == 2**bits and variant.float_run == f"runs/{name}"
        assert variant.soft_epochs and variant.hard_epochs


# The published kinds of blocks, fewer of them.
SHORT = {
    "resnet18": partial(ResNet, blocks=(1, 1)),
    "resnet50": partial(ResNet, blocks=(1, 1), bottleneck=True),
    "mobilenetv2": partial(MobileNetV2, stages=((1, 16, 1, 1), (6, 24, 2, 2)), last=32),
    "deit_s": partial(DeiT, depth=1),
}


@pytest.fixture
def mocked(monkeypatch):
    """A maker of tasks on tfds's mocks (images of 5 to 49 pixels), with networks that are narrow and not deep."""
    monkeypatch.setattr(data, "_prepared_version", lambda name, folder: "*.*.*")
    # The mock's records cannot be read many at once.
    monkeypatch.setattr(data, "_records", lambda source, indices: [source[i] for i in indices])
    monkeypatch.setattr(imagenet_models, "MODELS", SHORT)
    deeplab = partial(networks.DeepLab, block=networks.Bottleneck, depths=(1, 1, 1, 1))
    segformer = partial(networks.SegFormer, depths=(1, 1, 1, 1))
    monkeypatch.setattr(networks, "MODELS", {"resnet50_deeplab": deeplab, "segformer_b0": segformer})

    def make(name: str):
        tiny = {"width": 8, "batch": 4, "float_run": None, "data_dir": "unused"}
        found = load(name)
        if found.dataset == "ade20k":  # the layout that tfds knows; test_stream.py reads the published one
            tiny["dataset"] = "scene_parse150"
        if found.size:
            tiny["size"] = (32, 32)
        if found.model == "resnet20":
            tiny["model"] = "resnet8"
        makers = {"imagenet2012": imagenet.make_task, "ade20k": ade20k.make_task, "cifar100": classify.make_task}
        with data._tfds().testing.mock_data(num_examples=9):
            return makers[found.dataset](dataclasses.replace(found, **tiny))

    return make


@pytest.mark.parametrize("name", MOCKED)
def test_two_steps_of_each_phase(mocked, name):
    task = mocked(name)
    batches = list(task.train.epoch(4, seed=0, number=1))
    assert len(batches) == task.steps_per_epoch == 2
    trainer = float_trainer(task.config, task.loss_fn, 2, task.config.float_learning_rate)
    state = trainer.init(task.params, {}, {}, task.model_state, jax.random.key(0))
    step = jax.jit(trainer.float_step)
    for batch in batches:
        state, metrics = step(state, batch)
        assert np.isfinite(metrics.loss)
    check_evaluation(task, state)

    low = mocked(name.replace("_float", "_w2"))
    paths = list(planned(low).quantizers)
    few = "|".join(map(re.escape, paths[:: -(-len(paths) // 4)]))  # each kernel takes a second to compile
    plan, quant, quant_state = quantize_tree(state.params, [Rule(few, low.config.quantizer())])
    trainer = quantized_trainer(low.config, plan, low.loss_fn, low.steps_per_epoch)
    before = state = trainer.init(state.params, quant, quant_state, state.model_state, jax.random.key(1))
    step = jax.jit(trainer.soft_step)
    for batch in batches:
        state, metrics = step(state, batch)
        assert np.isfinite(metrics.loss)
    path = next(iter(plan.quantizers))
    assert not np.array_equal(state.quant[path]["levels"], before.quant[path]["levels"])
    for bits in (2, 3, 4):
        found = planned(mocked(name.replace("_float", f"_w{bits}"))).quantizers
        assert list(found) == paths and {q.k for q in found.values()} == {2**bits}


def planned(task):
    """The plan of a run of this task."""
    return make_plan(task.params, default_rules(task.config.quantizer(), task.order))


def check_evaluation(task, state) -> None:
    """A figure in [0, 1] of as many outputs as there are examples: the fill of the last batch does not count."""
    outputs = task.predict(state.params, state.model_state)
    assert len(outputs) == len(task.test) == 9
    assert 0 <= task.score(outputs) <= 1
