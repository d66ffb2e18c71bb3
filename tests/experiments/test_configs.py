"""Every variant of a config loads, takes two steps of each phase that it has and is evaluated, on mocks of its data.

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
# Those without a float run of their own, which train all phases at once, are shown at 2 bits alone.
ALONE = ("cifar10_resnet20", "cifar10_resnet8_cpu", "digits_cnn", "fashion_mlp")
NETWORKS = sorted(path.stem for path in FOLDER.glob("*.py"))
VARIANTS = ("bits=2", "bits=3", "bits=4", "method=float")
ALL = [f"{name}.py:{variant}" for name in NETWORKS for variant in (VARIANTS[:1] if name in ALONE else VARIANTS)]
# Left to `make test-configs`: 8 and 16 levels, which take long to compile, and networks whose kind another config has.
REST = re.compile(r".*bits=[34]|(ade20k_deeplab|camvid_segformer|cifar10_|text8_llama_large).*")
CASES = [pytest.param(name, marks=pytest.mark.configs) if REST.fullmatch(name) else name for name in ALL]
EXAMPLES, BATCH, CONTEXT = 9, 4, 8

pytestmark = pytest.mark.usefixtures("standard_promotion")


def load(name: str) -> Config:
    return config.load(FOLDER / name)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_says_its_commands_and_is_at_2_bits_by_itself(name):
    written = (FOLDER / f"{name}.py").read_text()
    assert "python -m experiments.train" in written and f"experiments/configs/{name}.py" in written
    found = load(f"{name}.py")
    assert found == load(f"{name}.py:bits=2") and found.k == 4 and found.soft_epochs
    assert found.float_run == (None if name in ALONE else f"runs/{name}_float")


@pytest.mark.parametrize("name", ALL)
def test_a_variant_has_its_levels_and_starts_from_the_float_network_of_its_file(name):
    network, _, variant = name.partition(".py:")
    own, found = config.named(FOLDER / name)
    if variant == "method=float":
        assert own == f"{network}_float" and not found.float_run and not found.soft_epochs + found.hard_epochs
    else:
        bits = variant.removeprefix("bits=")
        assert own == f"{network}_w{bits}" and found.k == 2 ** int(bits)
    start = load(f"{network}.py:method=float")
    for field in ("task", "dataset", "size", "context", "model", "width"):
        assert getattr(found, field) == getattr(start, field)


def test_a_method_can_be_chosen_with_the_bits_or_without():
    name, found = config.named(FOLDER / "camvid_unet.py:method=lsq,bits=3")
    assert name == "camvid_unet_w3_lsq" and found == dataclasses.replace(load("camvid_unet.py:bits=3"), method="lsq")
    assert config.named(FOLDER / "camvid_unet.py:method=lsq")[0] == "camvid_unet_w2_lsq"
    name, found = config.named(FOLDER / "camvid_unet.py:bits=2,method=float")  # trained on under the recipe
    assert name == "camvid_unet_w2_float" and found == dataclasses.replace(load("camvid_unet.py"), method="float")


@pytest.mark.parametrize(
    "variant,said",
    [
        ("bits=5", "variant 'bits=5': bits must be one of 1, 2, 3, 4"),
        ("bits=2,bits=3", "write bits=N, method=NAME"),
        ("method=round", "variant 'method=round': method must be one of mec, "),
        ("float", "'float': write bits=N"),
        ("width=8", "any field of a config is changed by an argument of its own, --field=value"),
    ],
)
def test_an_unknown_variant_is_refused(variant, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        load(f"digits_cnn.py:{variant}")


def test_a_file_of_one_config_has_no_variants(tmp_path):
    (tmp_path / "own.py").write_text("from experiments.config import Config\nconfig = Config(k=8)\n")
    assert config.named(tmp_path / "own.py") == ("own", Config(k=8))
    with pytest.raises(ValueError, match=r"variant 'bits=2': .*own.py has none; a field is changed by --field=value"):
        config.load(f"{tmp_path / 'own.py'}:bits=2")


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
