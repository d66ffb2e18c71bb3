"""Other people's weights: renamed one to one, rounded, transported and fine-tuned; no network and no PyTorch needed."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import mecq_reader
from experiments.config import Config
from experiments.data import in_memory as data
from experiments.models import published_resnets as foreign_models
from experiments.models.published_resnets import TorchBlock, TorchResNet
from experiments.published import networks
from experiments.published import study as pretrained
from experiments.published.fine_tune import fine_tune
from experiments.published.maps import TORCH_RESNET, norm_rules
from experiments.published.name_map import Rename, load_by_map, read_tensors
from experiments.tasks.base import parts
from experiments.tasks.classification import make_task as classify
from experiments.training.run import named, unflatten
from mecq_jax import training
from mecq_jax.params import default_rules
from mecq_jax.quantizers import MEC

pytestmark = pytest.mark.usefixtures("standard_promotion")

TINY_RULES = [
    Rename("conv/kernel", "features.0.weight", "conv"),
    *norm_rules("bn", "features.1"),
    Rename("(head)/kernel", r"\1.weight", "linear"),
    Rename("(head)/bias", r"\1.bias"),
]
IGNORE = (".*num_batches_tracked",)


class Tiny(nnx.Module):
    """A convolution of stride 2, a norm and a dense layer."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, 3, (3, 3), strides=2, padding=1, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(3, momentum=0.9, epsilon=1e-5, use_running_average=True, rngs=rngs)
        self.head = nnx.Linear(3, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.bn(self.conv(x))).mean(axis=(1, 2)))


@pytest.fixture
def theirs(rng):
    """A checkpoint of Tiny as PyTorch names it and lays it out."""
    shapes = {
        "features.0.weight": (3, 2, 3, 3),
        "features.1.weight": (3,),
        "features.1.bias": (3,),
        "features.1.running_mean": (3,),
        "features.1.running_var": (3,),
        "head.weight": (4, 3),
        "head.bias": (4,),
    }
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    tensors["features.1.running_var"] = np.square(tensors["features.1.running_var"]) + 0.5
    return tensors | {"features.1.num_batches_tracked": np.int64(7)}


def like(model):
    found = parts(model)
    return named(found["params"], found["model_state"])


def saved(folder, tensors, kind):
    path = folder / f"theirs.{kind}"
    if kind == "npz":
        np.savez(path, **tensors)
    else:
        safetensors.numpy.save_file({name: np.asarray(x) for name, x in tensors.items()}, path)
    return path


def correlate(x, w, stride):
    """PyTorch's 3x3 convolution with padding 1: x [C, H, W], w [O, C, 3, 3]; sums written out, float64."""
    padded = np.pad(np.float64(x), ((0, 0), (1, 1), (1, 1)))
    h, w_ = (-(-d // stride) for d in x.shape[1:])
    out = np.zeros((len(w), h, w_))
    for i in range(h):
        for j in range(w_):
            patch = padded[:, stride * i : stride * i + 3, stride * j : stride * j + 3]
            out[:, i, j] = (w * patch).sum(axis=(1, 2, 3))
    return out


def torch_norm(x, tensors, name):
    weight, bias, mean, var = (
        np.float64(tensors[f"{name}.{n}"])[:, None, None] for n in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_layouts_against_numpy(tmp_path, rng, theirs, kind):
    model = Tiny()
    found = load_by_map(saved(tmp_path, theirs, kind), TINY_RULES, like(model), IGNORE)
    task = classify(Config(dataset="digits"), tiny_data(rng))
    task = dataclasses.replace(task, **parts(model))
    params, model_state = unflatten(found, task)
    x = rng.normal(size=(2, 8, 8, 2)).astype(np.float32)
    got = task.model(params, model_state, training=False)(x)
    for image, logits in zip(x, got, strict=True):
        y = torch_norm(correlate(image.transpose(2, 0, 1), theirs["features.0.weight"], 2), theirs, "features.1")
        expected = theirs["head.weight"] @ np.maximum(y, 0).mean(axis=(1, 2)) + theirs["head.bias"]
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_everything_that_does_not_fit_is_listed(tmp_path, theirs):
    del theirs["head.bias"]
    theirs |= {"extra.weight": np.zeros(3, np.float32), "head.weight": np.zeros((4, 5), np.float32)}
    with pytest.raises(ValueError) as error:
        load_by_map(saved(tmp_path, theirs, "npz"), TINY_RULES, like(Tiny()), IGNORE)
    text = str(error.value)
    assert "1 missing:\n  head/bias (expected as head.bias)" in text
    assert "1 left over:\n  extra.weight" in text and "num_batches" not in text
    assert "1 of another shape:\n  head/kernel is (3, 4), head.weight is (4, 5) (linear)" in text


def test_a_map_is_one_to_one(tmp_path, theirs):
    path = saved(tmp_path, theirs, "npz")
    with pytest.raises(ValueError, match="0 rules are for 'head/bias'"):
        load_by_map(path, TINY_RULES[:-1], like(Tiny()), IGNORE)
    with pytest.raises(ValueError, match="2 rules are for 'head/bias'"):
        load_by_map(path, [*TINY_RULES, Rename("head/b.*", "head.bias")], like(Tiny()), IGNORE)
    twice = [*TINY_RULES[:-1], Rename("head/bias", "features.1.bias")]
    with pytest.raises(ValueError, match=r"both made of 'features\.1\.bias'"):
        load_by_map(path, twice, like(Tiny()), IGNORE)
    with pytest.raises(ValueError, match="layout 'OIHW'"):
        Rename("a", "b", "OIHW")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="fetch"):
        read_tensors(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="convert"):
        read_tensors(tmp_path / "model.pth")
    for kind in ("npz", "safetensors"):
        (tmp_path / f"bad.{kind}").write_bytes(b"not a checkpoint")
        with pytest.raises(ValueError, match="cannot be read"):
            read_tensors(tmp_path / f"bad.{kind}")


def test_a_block_pads_as_pytorch_does(rng):
    block = TorchBlock(2, 3, 2, nnx.Rngs(0))
    block = nnx.view(block, use_running_average=True)
    x = rng.normal(size=(8, 8, 2)).astype(np.float32)
    to_torch = {
        name: np.asarray(getattr(block, name).kernel[...]).transpose(3, 2, 0, 1)
        for name in ("conv1", "conv2", "shortcut")
    }
    y = np.maximum(correlate(x.transpose(2, 0, 1), to_torch["conv1"], 2) / np.sqrt(1 + 1e-5), 0)
    y = correlate(y, to_torch["conv2"], 1) / np.sqrt(1 + 1e-5)
    short = np.einsum("oc,chw->ohw", to_torch["shortcut"][:, :, 0, 0], x.transpose(2, 0, 1)[:, ::2, ::2])
    expected = np.maximum(y + short / np.sqrt(1 + 1e-5), 0)
    np.testing.assert_allclose(np.asarray(block(x[None])[0]).transpose(2, 0, 1), expected, atol=1e-5)


def tiny_data(rng, n=64):
    images = rng.integers(0, 256, size=(2 * n, 8, 8, 3)).astype(np.uint8)
    labels = rng.integers(0, 3, size=2 * n).astype(np.int32)
    mean, std = data.channel_statistics(images[:n])
    return data.Dataset("cifar10", images[:n], labels[:n], images[n:], labels[n:], 10, mean, std)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A tiny network among those that are known, with its file as PyTorch would name it."""
    return publish(tmp_path, monkeypatch, (1, 1))


@pytest.fixture
def short(tmp_path, monkeypatch):
    """One of a single stage, whose two quantized layers have one shape: what is trained compiles in seconds."""
    return publish(tmp_path, monkeypatch, (1,))


def write_theirs(path, ours):
    """A file as PyTorch would name these."""
    back = {"same": lambda x: x, "linear": lambda x: x.T, "conv": lambda x: x.transpose(3, 2, 0, 1)}
    tensors = {}
    for name, value in ours.items():
        rule, match = next((r, m) for r in TORCH_RESNET if (m := re.fullmatch(r.ours, name)))
        tensors[match.expand(rule.theirs)] = np.ascontiguousarray(back[rule.layout](value))
    safetensors.numpy.save_file(tensors, path)


def publish(tmp_path, monkeypatch, blocks):
    model = TorchResNet(3, 8, 10, 4, nnx.Rngs(0), blocks)
    ours = {n: np.asarray(x) for n, x in like(model).items() if "pixels" not in n}
    write_theirs(tmp_path / "tiny.safetensors", ours)
    monkeypatch.setitem(foreign_models.FOREIGN, "tiny", lambda *a, rngs: TorchResNet(*a, rngs, blocks))
    net = networks.Network(package="none==0", model="tiny", width=4, name_map=TORCH_RESNET)
    monkeypatch.setitem(networks.NETWORKS, "tiny", net)
    return net, tmp_path / "tiny.safetensors", ours


def test_pixels_come_back_and_statistics_are_those_of_numpy(published, rng):
    net, path, _ = published
    dataset = tiny_data(rng)
    task = networks.make_task(net, path, dataset, Config(dataset="cifar10", augment="none"))
    model = task.model(task.params, task.model_state, training=False)
    pixels = np.float64(dataset.train_images) / 255
    np.testing.assert_allclose(model.pixels(task.inputs(dataset.train_images)), pixels, atol=1e-6)

    batch = {"image": dataset.train_images, "label": dataset.train_labels}
    got = training.reestimate_batch_stats(task.loss_fn, task.params, task.model_state, [batch] * 120, jax.random.key(0))
    kernel = np.asarray(task.params["conv1"]["kernel"]).transpose(3, 2, 0, 1)
    first = np.stack([correlate(x.transpose(2, 0, 1), kernel, 1) for x in pixels])
    np.testing.assert_allclose(got["bn1"]["mean"], first.mean(axis=(0, 2, 3)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got["bn1"]["var"], first.var(axis=(0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_a_float_run_is_one_of_ours(published, rng, tmp_path):
    net, path, ours = published
    dataset = tiny_data(rng)
    task = networks.make_task(net, path, dataset)
    dense = mecq_reader.read_dense(networks.write_float_run(net, path, tmp_path / "run", task.statistics))
    assert set(dense) == {*ours, "pixels/scale", "pixels/shift"}
    for name, value in ours.items():
        np.testing.assert_array_equal(dense[name], value)
    np.testing.assert_allclose(dense["pixels/scale"], dataset.std, rtol=1e-6)
    unflatten(dense, task)  # as `experiments.train --float_run` does


def test_fine_tune_ends_with_levels(short, rng):
    net, path, _ = short
    task = networks.make_task(net, path, tiny_data(rng))
    start = default_rules(MEC(k=4), task.order)
    assert start[0].quantizer is None and start[1].quantizer is None, "first and last layers stay float"
    config = Config(k=4, soft_epochs=3, hard_epochs=2, batch=16)
    told = []
    found, params, _ = fine_tune(task, config, lambda what, done, of: told.append((done, of)))
    assert told == [(i, 5) for i in range(1, 6)]
    assert len(np.unique(found.hard(params)["layer1"][0]["conv1"]["kernel"])) <= 4
    with pytest.raises(ValueError, match="at least one step"):
        fine_tune(task, dataclasses.replace(config, soft_epochs=0, hard_epochs=0))


def test_the_study_from_end_to_end(short, rng, tmp_path, monkeypatch, capsys):
    dataset = tiny_data(rng)
    monkeypatch.setattr(data, "load", lambda *a: dataset)
    out = tmp_path / "out"
    arguments = [
        "--network=tiny",
        f"--folder={tmp_path}",
        "--test_images=48",
        "--bits=2",
        "--groups=('tensor',)",
        "--batch=16",
        "--statistics_batches=2",
        "--tune=('lsq',)",
        "--soft_steps=2",
        "--hard_steps=1",
        f"--out={out}",
    ]
    weights = ("nearest, least squares", "transport, Lloyd-Max masses")
    assert pretrained.main([*arguments, f"--weights={weights}"]) == 0
    own = out / "tiny"
    rows = [json.loads(line) for line in (own / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * (1 + 2 + 2), "two kinds of statistics of float, two roundings, and two that were trained"
    assert all(0 <= r["accuracy"] <= 1 for r in rows)
    assert all((r["bytes"] < rows[0]["bytes"]) == (r["key"]["bits"] == 2) for r in rows)
    recipes = {r["key"]["weights"]: set(r["key"]["recipe"]) for r in rows if "recipe" in r["key"]}
    assert "levels_rate" in recipes["fine-tuned, LSQ"] and "prior" not in recipes["fine-tuned, LSQ"]
    text = (own / "table.md").read_text()
    assert "fine-tuned, LSQ, 3 steps" in text and "48 test images" in text and str(tmp_path) not in text
    assert json.loads((own / "data.json").read_text())["rows"] == rows
    assert f"| tiny | 48 | {100 * rows[0]['accuracy']:.2f} |" in (out / "table.md").read_text()
    monkeypatch.setattr(pretrained.Study, "_error", None)  # rows that are there are not computed again
    assert pretrained.main([*arguments, f"--weights={weights}"]) == 0
    assert (own / "rows.jsonl").read_text().count("\n") == len(rows)
    monkeypatch.undo()
    assert pretrained.main(["--network=resnet8", f"--folder={out}"]) == 2
    assert "experiments.published fetch resnet8" in capsys.readouterr().err
