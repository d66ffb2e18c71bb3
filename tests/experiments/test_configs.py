"""Every config file loads, and takes two steps of each phase that it has and an evaluation, on mocks of its data.

The networks are narrow and not deep, and one of their kernels is quantized; the plan is made for all of them.
"""

import dataclasses
import re
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import config
from experiments.config import Config
from experiments.data import in_memory as data
from experiments.data import masks, text
from experiments.models import imagenet as imagenet_models
from experiments.models import llama
from experiments.models import segmentation as networks
from experiments.models import small as models
from experiments.models.imagenet import DeiT, MobileNetV2, ResNet
from experiments.tasks import registry as tasks
from experiments.training.recipe import float_trainer, phases, quantized_trainer
from mecq_jax.params import Rule, make_plan, quantize_tree

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "configs"
ALL = sorted(path.stem for path in FOLDER.glob("*.py"))
LOW = [name for name in ALL if re.search(r"_w\d", name)]
# Left to `make test-configs`: 8 and 16 levels, which take long to compile, and networks whose kind another config has.
REST = re.compile(r".*_w[34]|(ade20k_deeplab|camvid_segformer|cifar10|text8_llama_large)_.*")
CASES = [pytest.param(name, marks=pytest.mark.configs) if REST.fullmatch(name) else name for name in ALL]
EXAMPLES, BATCH, CONTEXT = 9, 4, 8

pytestmark = pytest.mark.usefixtures("standard_promotion")


def load(name: str) -> Config:
    return config.load(FOLDER / f"{name}.py")


@pytest.mark.parametrize("name", ALL)
def test_it_loads(name):
    found = load(name)
    written = (FOLDER / f"{name}.py").read_text()
    assert "python -m experiments.train" in written and f"experiments/configs/{name}.py" in written
    if found.float_run:  # its float run is a config here, of the same network and data
        base = load(found.float_run.removeprefix("runs/"))
        for field in ("task", "dataset", "size", "context", "model", "width"):
            assert getattr(found, field) == getattr(base, field)


@pytest.mark.parametrize("name", LOW)
def test_it_has_the_levels_that_its_name_says(name):
    found, (network, bits) = load(name), re.match(r"(.*)_w(\d)", name).groups()
    assert found.k == 2 ** int(bits) and found.soft_epochs
    assert found.float_run == f"runs/{network}_float" if f"{network}_float" in ALL else not found.float_run


# The published kinds of blocks, fewer of them, and of ResNets none that starts as its shortcut: a float run's do not.
SHORT = {
    models: {"resnet20": partial(models.ResNet, depth=8)},
    imagenet_models: {
        "resnet18": partial(ResNet, blocks=(1, 1), zero=False),
        "resnet50": partial(ResNet, blocks=(1, 1), bottleneck=True, zero=False),
        "mobilenetv2": partial(MobileNetV2, stages=((1, 16, 1, 1), (6, 24, 2, 2)), last=32),
        "deit_s": partial(DeiT, depth=1),
    },
    networks: {
        "patch_unet": partial(networks.PatchUNet, depths=(0, 0, 0, 1)),
        "resnet18_deeplab": partial(networks.DeepLab, blocks=(1, 1, 1, 1), zero=False),
        "resnet50_deeplab": partial(networks.DeepLab, blocks=(1, 1, 1, 1), bottleneck=True, zero=False),
        "segformer_b0": partial(networks.SegFormer, depths=(1, 0, 0, 0)),
    },
    llama: {name: partial(llama.Llama, depth=1) for name in ("llama_small", "llama_base")},
}


def few_masks() -> masks.Masks:
    """Images of noise with masks that hold every class and the label that is ignored."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, EXAMPLES, 32, 32, 3), np.uint8)
    labels = rng.integers(0, len(masks.CAMVID.names) + 1, (2, EXAMPLES, 32, 32), np.uint8)
    return masks.Masks(
        train_images=images[0],
        train_labels=labels[0],
        test_images=images[1],
        test_labels=labels[1],
        classes=masks.CAMVID,
        mean=(0.5,) * 3,
        std=(0.3,) * 3,
    )


def short_text() -> text.Text:
    """Symbols drawn evenly, in each part as many windows as there are examples elsewhere."""
    parts = np.random.default_rng(0).integers(0, len(text.TEXT8_SYMBOLS), (3, EXAMPLES * CONTEXT + 1), np.uint8)
    return text.Text(text.TEXT8_SYMBOLS, *parts)


@pytest.fixture
def mocked(monkeypatch):
    """A maker of tasks on mocks, tfds's (images of 5 to 49 pixels) and ours, with networks narrow and not deep."""
    monkeypatch.setattr(data, "_prepared_version", lambda name, folder: "*.*.*")
    # The mock's records cannot be read many at once.
    monkeypatch.setattr(data, "_records", lambda source, indices: [source[i] for i in indices])
    monkeypatch.setattr(masks, "load", lambda *args, **options: few_masks())
    monkeypatch.setattr(text, "load", lambda *args, **options: short_text())
    for module, short in SHORT.items():
        monkeypatch.setattr(module, "MODELS", module.MODELS | short)

    def make(name: str):
        found = load(name)
        tiny = {"width": 8, "batch": BATCH, "data_dir": "unused"}
        if found.dataset == "ade20k":  # the layout that tfds knows; test_stream.py reads the published one
            tiny["dataset"] = "scene_parse150"
        if found.dataset == "digits":  # nothing to mock: scikit-learn brings them
            tiny["train_size"] = EXAMPLES
        if found.size:
            tiny["size"] = (32, 32)
        if found.task == "language":
            tiny["context"] = CONTEXT
        with data._tfds().testing.mock_data(num_examples=EXAMPLES):
            return tasks.make_task(dataclasses.replace(found, **tiny))

    return make


@pytest.mark.parametrize("name", CASES)
def test_two_steps_of_each_phase_and_an_evaluation(mocked, name):
    task = mocked(name)
    batches = list(task.train.epoch(BATCH, seed=0, number=1))
    assert len(batches) == task.steps_per_epoch == 2
    params, model_state = task.params, task.model_state
    if not task.config.float_run:
        params, model_state = train_float(task, params, model_state, batches)
    if phases(task.config):
        params, model_state = train_quantized(task, params, model_state, batches)
    outputs = task.predict(params, model_state)
    assert len(outputs) == len(task.test)
    # Of untrained networks: a share, or not far from the log2(27) = 4.75 bits of symbols drawn evenly.
    low, high = (0, 1) if task.kind.higher_is_better else (4, 8)
    assert low <= task.score(outputs) <= high


def train_float(task, params, model_state, batches):
    """(params, model_state) after float steps."""
    config = task.config
    trainer = float_trainer(
        config, task.loss_fn, config.float_epochs * task.steps_per_epoch, config.float_learning_rate
    )
    state = trainer.init(params, None, model_state, jax.random.key(0))
    state = steps(trainer.float_step, state, batches)
    return state.params, state.model_state


def train_quantized(task, params, model_state, batches):
    """(hard weights, model_state) after soft and hard steps, as many of both as there are batches."""
    config = task.config
    quantizers = make_plan(params, config.rules(task.order)).quantizers
    assert {quantizer.k for quantizer in quantizers.values()} == {config.k}
    path = next(iter(quantizers))  # each takes a second or two to compile
    quantized = quantize_tree(params, [Rule(re.escape(path), config.quantizer())])
    assert list(quantized.plan.quantizers) == [path]
    trainer = quantized_trainer(config, task.loss_fn, task.steps_per_epoch)
    start = trainer.init(params, quantized, model_state, jax.random.key(1))
    state = steps(trainer.soft_step, start, batches)
    assert moved(start.quantized.parameters, state.quantized.parameters)
    state = settled = jax.jit(trainer.refresh_codes)(state)
    if "hard" in phases(config):
        state = steps(trainer.hard_step, settled, batches)
        assert moved(settled.quantized.parameters, state.quantized.parameters)
        assert not moved(settled.quantized.codes, state.quantized.codes)
    return jax.jit(trainer.hard_params)(state), state.model_state


def steps(step, state, batches):
    """The state after a step on each batch."""
    step = jax.jit(step)
    for batch in batches:
        state, metrics = step(state, batch)
        assert np.isfinite(metrics.loss)
    return state


def moved(before, after) -> bool:
    """Whether the one array of each tree has changed."""
    (a,), (b,) = jax.tree.leaves(before), jax.tree.leaves(after)
    return not np.array_equal(a, b)
