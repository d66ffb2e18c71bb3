"""The language task: the network against NumPy in float64, its windows, its text, and a run to a packed file."""

import dataclasses
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.config import Config
from experiments.data import text
from experiments.models import llama
from experiments.tasks import language as modelling
from experiments.training.run import run
from mecq_jax import storage
from mecq_jax.params import leaves_by_path

pytestmark = pytest.mark.usefixtures("standard_promotion")


def reference_rotation(x):
    """Each pair as a complex number times e^(i p theta^(-2j/d)), float64."""
    pairs = x[..., 0::2] + 1j * x[..., 1::2]
    t, half = x.shape[1], x.shape[3] // 2
    angle = np.arange(t)[:, None] * 10_000.0 ** (-np.arange(half) / half)[None]
    turned = pairs * np.exp(1j * angle)[None, :, None]
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def reference_attention(params, x, heads):
    """Causal attention of x [b, t, w], one head and one token after another, float64."""
    b, t, w = x.shape
    q, k, v = ((x @ params[n]["kernel"].astype(np.float64)).reshape(b, t, heads, -1) for n in ("query", "key", "value"))
    q, k = reference_rotation(q), reference_rotation(k)
    out = np.zeros((b, t, heads, w // heads))
    for i in range(b):
        for h in range(heads):
            for p in range(t):
                score = k[i, : p + 1, h] @ q[i, p, h] / np.sqrt(w // heads)
                weight = np.exp(score - score.max())
                out[i, p, h] = weight / weight.sum() @ v[i, : p + 1, h]
    return out.reshape(b, t, w) @ params["out"]["kernel"].astype(np.float64)


def tiny():
    return llama.Llama(11, 8, nnx.Rngs(0), depth=2, heads=2)


def test_attention_with_rotary_positions_is_the_reference(rng):
    layer = llama.Attention(12, 3, nnx.Rngs(1))
    x = rng.normal(size=(2, 7, 12))
    params = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(layer)))
    got = layer(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, reference_attention(params, x, 3), atol=2e-6)


def test_a_query_and_a_key_meet_by_their_distance(rng):
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))
    q, k = (llama.rotate(jnp.tile(x, (1, 100, 1, 1)))[0] for x in (q, k))
    near, far = (jnp.sum(q[p + 3] * k[p]) for p in (0, 90))
    np.testing.assert_allclose(near, far, rtol=1e-4)


def test_a_later_token_changes_no_earlier_logits(rng):
    model = tiny()
    tokens = rng.integers(11, size=(2, 9))
    changed = tokens.copy()
    changed[:, 5] = (tokens[:, 5] + 1) % 11
    before, after = model(jnp.asarray(tokens)), model(jnp.asarray(changed))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.all(np.abs(before[:, 5:] - after[:, 5:]).max(axis=(1, 2)) > 0)


def test_the_embedding_and_the_head_are_first_and_last():
    from mecq_jax.nn import parameters_by_path
    from mecq_jax.params import default_rules, make_plan
    from mecq_jax.quantizers.baselines import LSQ

    order = parameters_by_path(tiny())
    plan = make_plan(order, default_rules(LSQ(k=4), order))
    assert plan.skipped["embed/kernel"] == "first layer" and plan.skipped["head/kernel"] == "last layer"
    assert len(plan.quantizers) == 2 * 7


@pytest.fixture
def book(tmp_path, rng) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("".join(rng.choice(list("abc é\n"), size=4000)), encoding="utf-8")
    return path


@pytest.fixture
def config(book) -> Config:
    return Config(
        task="language",
        dataset="text",
        data_dir=str(book),
        context=16,
        batch=4,
        model="llama_tiny",
        width=16,
        clip=1.0,
        warmup=0.2,
    )


def test_uniform_logits_are_worth_the_logarithm_of_the_symbols(config):
    task = modelling.make_task(config)
    params = jax.tree.map(jnp.zeros_like, task.params)
    np.testing.assert_allclose(task.evaluate(params, task.model_state), np.log2(6), rtol=1e-6)
    task = dataclasses.replace(task, source=dataclasses.replace(task.source, symbols=text.TEXT8_SYMBOLS))
    model = llama.build("llama_tiny", 27, 16, 0)
    windows = jnp.asarray(task.source.test[None, :17])
    zeros = jax.tree.map(jnp.zeros_like, nnx.state(model))
    nnx.update(model, zeros)
    np.testing.assert_allclose(task.losses(model, windows) / np.log(2), np.log2(27), rtol=1e-6)


def test_windows_predict_every_token_once_in_order(rng):
    windows = text.Windows(rng.integers(27, size=86).astype(np.uint8), context=8)
    assert len(windows) == 10
    batches = [b["tokens"] for b in windows.once(4)]
    assert [b.shape for b in batches] == [(4, 9)] * 3 and batches[0].dtype == np.uint8
    rows = np.concatenate(batches)[:10]
    np.testing.assert_array_equal(rows[:, 1:].ravel(), windows.tokens[1:81])
    np.testing.assert_array_equal(rows[:, 0], windows.tokens[:80:8])


def test_an_epoch_is_a_function_of_its_seed_and_number_and_goes_on_from_any_batch():
    windows = text.Windows(np.arange(200, dtype=np.uint8), context=7)
    whole = [b["tokens"] for b in windows.epoch(4, seed=3, number=2)]
    rest = [b["tokens"] for b in windows.epoch(4, seed=3, number=2, start=5)]
    np.testing.assert_array_equal(whole[5:], rest)
    rows = np.concatenate(whole)
    assert len(whole) == len(windows) // 4 and len({tuple(r) for r in rows}) == len(rows)
    np.testing.assert_array_equal(np.diff(rows.astype(int), axis=1), 1)  # each is a piece of the text
    starts = {n: np.concatenate([b["tokens"] for b in windows.epoch(4, seed=3, number=n)])[:, 0] for n in range(6)}
    assert len({s.min() for s in starts.values()}) > 1  # the phase moves
    assert not np.array_equal(starts[0], starts[1])


def test_processes_share_each_batch(monkeypatch):
    windows = text.Windows(np.arange(200, dtype=np.uint8), context=7)
    whole = next(windows.epoch(6, seed=0, number=0))["tokens"]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    parts = []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        parts.append(next(windows.epoch(6, seed=0, number=0))["tokens"])
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_text8_is_read_from_its_zip_its_folder_and_itself(tmp_path, monkeypatch):
    raw = (" abcdefghijklmnopqrstuvwxyz" * 4)[:100]
    monkeypatch.setattr(text, "TEXT8_SIZE", 100)
    with zipfile.ZipFile(tmp_path / "text8.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text8", raw)
    zipped = text.load("text8", tmp_path, train_size=50)
    assert len(zipped.symbols) == 27
    assert [len(p) for p in (zipped.train, zipped.validation, zipped.test)] == [50, 5, 5]
    (tmp_path / "text8").write_text(raw)
    for place in (tmp_path / "text8.zip", tmp_path / "text8", tmp_path):
        found = text.load("text8", place)
        parts = np.concatenate([found.train, found.validation, found.test])
        assert "".join(found.symbols[t] for t in parts) == raw


def test_a_plain_text_is_its_sorted_symbols(book):
    found = text.load("text", book)
    assert found.symbols == "\n abcé"
    parts = np.concatenate([found.train, found.validation, found.test])
    assert "".join(found.symbols[t] for t in parts) == book.read_text(encoding="utf-8")
    assert [len(p) for p in (found.train, found.validation, found.test)] == [3600, 200, 200]


def test_what_is_missing_or_wrong_is_named(tmp_path, book, config, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"(?s)text8\.zip.*--data_dir"):
        text.load("text8", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="100000000"):
        text.load("text8", book)
    (tmp_path / "text8").write_text("Abc")
    monkeypatch.setattr(text, "TEXT8_SIZE", 3)
    with pytest.raises(ValueError, match="byte 65 at 0"):
        text.load("text8", tmp_path / "text8")
    with pytest.raises(FileNotFoundError, match="plain text"):
        text.load("text", None)
    with pytest.raises(ValueError, match="train_size is 9999"):
        text.load("text", book, train_size=9999)
    with pytest.raises(ValueError, match="unknown text"):
        text.load("enwik8", book)
    with pytest.raises(ValueError, match="mixup"):
        modelling.make_task(dataclasses.replace(config, mixup=0.2))
    with pytest.raises(ValueError, match="is not one of"):
        modelling.make_task(dataclasses.replace(config, model="vit"))
    with pytest.raises(ValueError, match="no window"):
        text.Windows(np.zeros(8, np.uint8), context=8)


def test_with_a_train_size_the_test_part_is_cut(config, monkeypatch):
    monkeypatch.setattr(modelling, "QUICK_TEST", 50)
    assert len(modelling.make_task(config).test) == 199 // 16
    assert len(modelling.make_task(dataclasses.replace(config, train_size=3000)).test) == 49 // 16


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_loss_and_output_are_float32_in_both_types(config, compute):
    task = modelling.make_task(dataclasses.replace(config, compute=compute))
    batch = next(task.train.epoch(4, 0, 0))
    loss, (_, scalars) = jax.jit(task.loss_fn)(task.params, task.model_state, batch, jax.random.key(0))
    bits = jax.jit(task.output)(task.params, task.model_state, batch)
    assert loss.dtype == bits.dtype == jnp.float32 and bits.shape == (4, 16)
    np.testing.assert_allclose(scalars["train_bits_per_character"], bits.mean(), rtol=1e-2)
    np.testing.assert_allclose(loss / np.log(2), scalars["train_bits_per_character"], rtol=1e-6)


def test_a_run_ends_in_a_packed_file(config, tmp_path):
    config = dataclasses.replace(
        config, train_size=16 * 8 + 16, float_epochs=1, soft_epochs=2, hard_epochs=1, groups="channel"
    )
    task = modelling.make_task(config)
    assert task.steps_per_epoch == 2
    result = run(config, tmp_path / "run", task=task)
    assert 0 < result.hard_score < 8 and np.isfinite(result.soft_to_hard_gap)
    stored = storage.load(tmp_path / "run" / "model.safetensors")
    packed = [name for name, leaf in stored.items() if isinstance(leaf, storage.QuantizedTensor)]
    assert len(packed) == 2 * 7 and "embed/kernel" not in packed
    assert set(stored) >= set(leaves_by_path(task.params))
