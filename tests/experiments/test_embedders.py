"""Networks that give vectors: their blocks against NumPy, the neighbours' vote, the study, the texts."""

import dataclasses
import json
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from PIL import Image
from scipy.special import erf
from sklearn.neighbors import KNeighborsClassifier

from experiments.data import in_memory as data
from experiments.models import published_transformers as foreign_transformers
from experiments.models.published_transformers import DinoV2, SentenceBert
from experiments.published import embedders, float_run, maps, name_map
from experiments.published import study as pretrained
from experiments.published.fine_tune import fine_tune
from experiments.published.networks import NETWORKS, Network
from experiments.tasks.base import parts
from experiments.training.run import named
from mecq_jax.params import Rule, leaves_by_path
from mecq_jax.post_training import round_to_nearest, transport_weights
from mecq_jax.quantizers import MEC

pytestmark = pytest.mark.usefixtures("standard_promotion")


def drawn(model, rng):
    """The model with every parameter at random, norms and biases too."""
    state = nnx.state(model, nnx.Param)
    for _, leaf in nnx.to_flat_state(state):
        leaf[...] = jnp.asarray(rng.normal(size=leaf.shape, scale=0.5), jnp.float32)
    nnx.update(model, state)
    return model


def dense(layer, x):
    return x @ np.float64(layer.kernel[...]) + np.float64(layer.bias[...])


def norm(layer, x, epsilon):
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + epsilon)
    return scaled * np.float64(layer.scale[...]) + np.float64(layer.bias[...])


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def attention(q, k, v, heads):
    """Of [t, w], one head after the other."""
    out = []
    for own in zip(*(np.split(x, heads, axis=1) for x in (q, k, v)), strict=True):
        scores = own[0] @ own[1].T / np.sqrt(own[0].shape[1])
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out.append(weights / weights.sum(axis=1, keepdims=True) @ own[2])
    return np.concatenate(out, axis=1)


@pytest.mark.parametrize("size", [15, 9])
def test_dinov2_is_the_published_one(rng, size):
    """Positions of 5 x 5 patches of 3 x 3 pixels; for 3 x 3 of them resized as Pillow resizes an image."""
    model = drawn(DinoV2(nnx.Rngs(0), width=8, depth=2, heads=2, patch=3, grid=5, registers=2), rng)
    image = rng.normal(size=(size, size, 3)).astype(np.float32)
    side = size // 3
    kernel = np.float64(model.first.kernel[...])
    patches = np.stack(
        [np.tensordot(image[3 * i : 3 * i + 3, 3 * j : 3 * j + 3], kernel, 3) for i in range(side) for j in range(side)]
    ) + np.float64(model.first.bias[...])
    positions = np.asarray(model.positions[...])[0]
    grid = positions[1:].reshape(5, 5, 8)
    resized = [Image.fromarray(grid[..., c]).resize((side, side), Image.Resampling.BICUBIC) for c in range(8)]
    patches += np.stack(resized, axis=-1).reshape(side * side, 8)
    x = np.concatenate([model.token[0] + positions[:1], model.registers[0], patches]).astype(np.float64)
    for block in model.blocks:
        q, k, v = np.split(dense(block.qkv, norm(block.norm1, x, 1e-6)), 3, axis=1)
        x = x + np.float64(block.scale1[...]) * dense(block.out, attention(q, k, v, 2))
        inner = gelu(dense(block.up, norm(block.norm2, x, 1e-6)))
        x = x + np.float64(block.scale2[...]) * dense(block.down, inner)
    np.testing.assert_allclose(model(image[None])[0], norm(model.norm, x[0], 1e-6), atol=2e-5)


def test_sentence_bert_is_the_published_one(rng):
    """The mean over the tokens of a text; what fills it up changes nothing."""
    model = drawn(SentenceBert(nnx.Rngs(0), symbols=11, width=8, depth=2, heads=2, context=9), rng)
    tokens = np.array([3, 7, 7, 1, 10], np.int32)
    table, places, kinds = (np.float64(x.embedding[...]) for x in (model.words, model.positions, model.kinds))
    x = norm(model.norm, table[tokens] + places[:5] + kinds[0], 1e-12)
    for block in model.blocks:
        mixed = attention(*(dense(layer, x) for layer in (block.query, block.key, block.value)), 2)
        x = norm(block.norm1, x + dense(block.out, mixed), 1e-12)
        x = norm(block.norm2, x + dense(block.down, gelu(dense(block.up, x))), 1e-12)
    np.testing.assert_allclose(model(tokens[None])[0], x.mean(axis=0), atol=2e-5)
    filled = np.concatenate([tokens, np.zeros(4, np.int32)])
    np.testing.assert_allclose(model(filled[None])[0], x.mean(axis=0), atol=2e-5)


@pytest.mark.fast
def test_neighbours_vote_as_scikit_learn_s(rng):
    """Each example against all others, one after the other."""
    labels = rng.integers(4, size=60)
    vectors = rng.normal(size=(60, 5)) + rng.normal(size=(4, 5))[labels]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def of_distance(d):  # 1 - cos
        return np.exp(-d / embedders.TEMPERATURE)

    judge, expected = KNeighborsClassifier(7, metric="cosine", weights=of_distance), []
    for i in range(60):
        others = np.arange(60) != i
        judge.fit(vectors[others], labels[others])
        expected.append(judge.predict(vectors[i : i + 1])[0])
    np.testing.assert_array_equal(embedders.neighbours_vote(vectors, labels, 7), expected)
    whole = np.tile(vectors, (40, 1)) + rng.normal(scale=1e-3, size=(2400, 5))  # more than a block of 1000
    among = np.tile(labels, 40)
    last = embedders.neighbours_vote(whole, among, 7)[-1]
    rest = np.argsort(-(whole[-1] @ whole[:-1].T))[:7]
    assert last == np.bincount(among[rest], np.exp(whole[rest] @ whole[-1] / embedders.TEMPERATURE)).argmax()


def write_as_published(path, model, rules):
    """The model's tensors under the names, and in the layouts, of its publisher."""
    layouts = {"linear": np.transpose, "same": np.asarray, "conv": lambda x: x.transpose(3, 2, 0, 1)}
    of_model, theirs = parts(model), {}
    for ours, value in named(of_model["params"], of_model["model_state"]).items():
        name, layout = name_map._source(ours, rules)
        theirs[name] = np.ascontiguousarray(layouts[layout](np.asarray(value)))
    safetensors.numpy.save_file(theirs, path)


@pytest.fixture
def tiny(tmp_path, monkeypatch, rng):
    """A network of texts with its file and passages beside it."""
    build = partial(SentenceBert, symbols=30, width=8, depth=2, heads=2, context=8)
    monkeypatch.setitem(foreign_transformers.EMBEDDERS, "tiny", build)
    rules = tuple(maps.sentence_bert())
    net = Network(
        package=None, model="tiny", width=8, dataset="passages", embeds=True, tables="words/embedding", name_map=rules
    )
    monkeypatch.setitem(NETWORKS, "tiny", net)
    write_as_published(tmp_path / "tiny.safetensors", net.build(), rules)
    label = np.arange(40, dtype=np.int32) % 3
    monkeypatch.setattr(embedders, "TO_LEARN_FROM", 32)
    tokens = (rng.integers(1, 3, size=(40, 8)) + 10 * label[:, None]).astype(np.int32)
    both = {"tokens": tokens, "label": label}
    arrays = {f"{part}/{name}": x for part in ("test", "train") for name, x in both.items()}
    safetensors.numpy.save_file(arrays, tmp_path / "passages.safetensors")
    return tmp_path


def test_a_fine_tune_brings_the_vectors_back(tiny):
    task = embedders.make_task(NETWORKS["tiny"], tiny / "tiny.safetensors", None, 30)
    assert len(task.test) == 30 and task.evaluate(task.params, task.model_state) > 0.8
    batch = next(task.train.epoch(8, 0, 1))
    assert set(batch) == {"tokens", "target"}
    loss, _ = task.loss_fn(task.params, task.model_state, batch, None)
    assert abs(loss) < 1e-6
    config = pretrained.Config(hard_steps=10, learning_rate=1e-2, batch=8)
    ends = {}
    for steps in (1, 80):
        found, params, state = fine_tune(task, dataclasses.replace(config, soft_steps=steps).tuning("mec", 2, 0))
        ends[steps] = float(task.loss_fn(found.hard(params), state, batch, None)[0])
    assert ends[80] < 0.5 * ends[1]


def test_two_sets_of_rules_are_joined(tiny):
    task = embedders.make_task(NETWORKS["tiny"], tiny / "tiny.safetensors", None, 30)
    kernels = transport_weights(task.params, [Rule("blocks/.*/up/kernel", MEC(k=4))])
    table = round_to_nearest(task.params, [Rule("words/embedding", pretrained.TABLE)])
    both = kernels | table
    assert set(both.plan.quantizers) == {"words/embedding", "blocks/0/up/kernel", "blocks/1/up/kernel"}
    assert not set(both.plan.skipped) & set(both.plan.quantizers)
    expected = leaves_by_path(kernels.hard(task.params))
    expected["words/embedding"] = table.hard(task.params)["words"]["embedding"]
    dense = leaves_by_path(both.hard(task.params))
    for path in dense:
        np.testing.assert_array_equal(dense[path], expected[path])
    assert set(both.to_tensors(task.params)) == set(dense)
    with pytest.raises(ValueError, match="would be quantized twice"):
        both | table


def test_the_study_of_a_network_without_statistics(tiny, capsys):
    arguments = [
        "--network=tiny",
        f"--folder={tiny}",
        f"--out={tiny / 'out'}",
        "--batch=8",
        "--bits=2",
        "--tune='mec',",
        "--groups='channel',",
        "--weights='transport, Lloyd-Max masses',",
        "--soft_steps=1",
        "--hard_steps=1",
        "--test_images=30",
    ]
    assert pretrained.main(arguments) == 0
    rows = json.loads((tiny / "out" / "tiny" / "data.json").read_text())["rows"]
    assert [row["key"]["weights"] for row in rows] == ["float", "transport, Lloyd-Max masses", "fine-tuned, MEC"]
    assert {row["key"]["statistics"] for row in rows} == {"own"} and {row["key"]["test_images"] for row in rows} == {30}
    assert "error" not in rows[0] and 0 < rows[1]["error"] < rows[2]["error"]
    assert "tiny, 30 test passages" in (tiny / "out" / "tiny" / "table.md").read_text()
    task = embedders.make_task(NETWORKS["tiny"], tiny / "tiny.safetensors", None, 30)
    found = pretrained.quantized(task, "transport, Lloyd-Max masses", 2, "channel", pretrained.Config.temperature)
    table = round_to_nearest(task.params, [Rule("words/embedding", pretrained.TABLE)], "least_squares")
    packed = pretrained.file_bytes((found | table).to_tensors(task.params), task.model_state)
    assert rows[1]["bytes"] == packed != pretrained.file_bytes(found.to_tensors(task.params), task.model_state)
    assert rows[1]["key"]["tables"] == "16 levels a row" and "tables" not in rows[0]["key"]
    capsys.readouterr()
    assert pretrained.main([*arguments, "--test_images=10"]) == 2
    assert "10 test examples cannot each have 10 neighbours" in capsys.readouterr().err
    (tiny / "passages.safetensors").write_bytes(b"damaged")
    assert pretrained.main(arguments) == 2
    assert "cannot be read" in capsys.readouterr().err
    safetensors.numpy.save_file({"a": np.zeros(3)}, tiny / "passages.safetensors")
    assert pretrained.main(arguments) == 2
    assert "holds ['a'], no passages; delete it" in capsys.readouterr().err
    (tiny / "passages.safetensors").unlink()
    assert pretrained.main(arguments) == 2
    assert f"get it by: python -m experiments.published fetch passages --folder {tiny}" in capsys.readouterr().err
    assert float_run.main(["tiny", "--folder", str(tiny), "--out", str(tiny / "run")]) == 2
    assert "tiny gives vectors, not classes: no run starts from it" in capsys.readouterr().err


@pytest.mark.fast
def test_a_fine_tune_that_cannot_be_is_refused_at_once():
    for field, value in {"tune_groups": "block", "soft_steps": -1, "hard_steps": -2}.items():
        with pytest.raises(ValueError, match=f"{field} = {value!r}: it must be"):
            pretrained.Config(**{field: value})
    with pytest.raises(ValueError, match="a fine-tune has at least one step; without any, --tune='\\(\\)'"):
        pretrained.Config(soft_steps=0, hard_steps=0)


def test_images_are_resized_as_pillow_does(tmp_path, monkeypatch, rng):
    """A tiny DINOv2 of images in memory: the first 20 test images, 30 x 30, ImageNet's mean and std."""
    images = rng.integers(0, 256, size=(25, 8, 8, 3)).astype(np.uint8)
    labels = np.arange(25, dtype=np.int32) % 10
    dataset = data.Dataset("cifar10", images, labels, images, labels, 10, (0.5,) * 3, (0.2,) * 3)
    monkeypatch.setattr(data, "load", lambda name, folder: dataset)
    build = partial(DinoV2, width=8, depth=1, heads=2, patch=10, grid=3)
    monkeypatch.setitem(foreign_transformers.EMBEDDERS, "tiny", build)
    rules = tuple(maps.dinov2())
    net = Network(package=None, model="tiny", width=8, size=30, embeds=True, name_map=rules)
    model = build(nnx.Rngs(3))
    write_as_published(tmp_path / "tiny.safetensors", model, rules)
    task = embedders.make_task(net, tmp_path / "tiny.safetensors", None, 20)
    bands = [Image.fromarray(images[4, ..., c].astype(np.float32)) for c in range(3)]
    resized = np.stack([band.resize((30, 30), Image.Resampling.BICUBIC) for band in bands], axis=-1) / 255
    seen = (resized - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    vector = np.asarray(model(seen[None].astype(np.float32))[0])
    got = task.predict(task.params, task.model_state)
    assert got.shape == (20, 8)
    np.testing.assert_allclose(got[4], vector / np.linalg.norm(vector), atol=1e-5)
    assert task.config.size is None and task.config.augment == "none"
