"""The files of llama2.c, its tokenizer, and a network of random weights on the whole way to packed files."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples import npm
from examples.tiny_stories import __main__ as stories
from examples.tiny_stories import llama2c, model
from examples.tiny_stories.llama2c import BOS, Shape, Tokenizer
from experiments.models.llama import Llama
from mecq_jax import load
from mecq_jax.params import parameters_by_path
from mecq_jax.storage import QuantizedTensor

pytestmark = pytest.mark.usefixtures("standard_promotion")
SHAPE = Shape(width=16, hidden=64, depth=2, heads=2, kv_heads=2, vocabulary=259, context=64)
BYTES = [b"<unk>", b"<s>", b"</s>", *(f"<0x{b:02X}>".encode() for b in range(256))]


@pytest.fixture(scope="module")
def llama() -> Llama:
    """The experiments' network, with its embedding as head."""
    found = Llama(SHAPE.vocabulary, SHAPE.width, nnx.Rngs(0), depth=SHAPE.depth, heads=SHAPE.heads)
    found.head.kernel[...] = found.embed.kernel[...].T
    return found


@pytest.fixture(scope="module")
def data(llama) -> bytes:
    """That network as a file of llama2.c, in the order of its memory_map_weights."""
    ours = {name.replace("attention/", ""): np.asarray(a) for name, a in parameters_by_path(llama).items()}
    layer = ("attention_norm/scale", *(f"{name}/kernel" for name in ("query", "key", "value", "out")), "norm/scale")
    layer += ("gate/kernel", "down/kernel", "up/kernel")
    stacked = [ours[f"blocks/{i}/{name}"].T for name in layer for i in range(SHAPE.depth)]
    positions = np.zeros(SHAPE.context * SHAPE.width // SHAPE.heads)  # cosines and sines, which are not read
    arrays = [ours["embed/kernel"], *stacked, ours["norm/scale"], positions]
    return struct.pack("<7i", *SHAPE) + b"".join(np.asarray(a, "<f4").tobytes() for a in arrays)


@pytest.fixture(scope="module")
def arrays(data) -> dict:
    return jax.tree.map(jnp.asarray, llama2c.read_model(data)[1])


def test_a_file_is_read_into_the_network_that_wrote_it(data, arrays, llama, rng):
    assert llama2c.read_model(data)[0] == SHAPE
    tokens = jnp.asarray(rng.integers(SHAPE.vocabulary, size=(2, 9)))
    logits, _ = model.forward(SHAPE, arrays, tokens)
    np.testing.assert_allclose(logits, llama(tokens), atol=1e-6)


def test_another_model_is_refused(data):
    with pytest.raises(ValueError, match="tied head"):
        llama2c.read_model(struct.pack("<7i", *SHAPE._replace(vocabulary=-259)) + data[28:])
    with pytest.raises(ValueError, match="as many heads of keys"):
        llama2c.read_model(struct.pack("<7i", *SHAPE._replace(kv_heads=1)) + data[28:])


@pytest.fixture
def tokenizer() -> Tokenizer:
    scored = [(b" ", -9), (b"a", -8), (b"b", -7), (b"ab", -2), (b" a", -3), (b"abb", -1), (b" ab", -1.5)]
    raw = struct.pack("<i", 6)
    for piece, score in [*((p, 0.0) for p in BYTES), *scored]:
        raw += struct.pack("<fi", score, len(piece)) + piece
    return llama2c.read_tokenizer(raw, len(BYTES) + len(scored))


def test_the_best_pair_is_joined_first(tokenizer):
    def pieces(text):
        return [tokenizer.pieces[t] for t in tokenizer.encode(text)]

    assert pieces("ab") == [b"<s>", b" ab"]  # 'ab' (-2) goes before ' a' (-3), then ' ab'
    assert pieces("abb") == [b"<s>", b" ", b"abb"]  # of ' ab' (-1.5) and 'abb' (-1) the better
    assert pieces("") == [b"<s>"]
    assert pieces("é") == [b"<s>", b" ", b"<0xC3>", b"<0xA9>"]  # no piece: its bytes


@pytest.mark.parametrize("text", ["ab", "abba b", "é\nab", "日本"])
def test_a_text_comes_back_from_its_tokens(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokens[0] == BOS and tokenizer.decode(tokens) == text


def test_steps_with_a_cache_give_the_logits_of_the_whole(arrays, rng):
    tokens = jnp.asarray(rng.integers(SHAPE.vocabulary, size=(2, 6)))
    empty, logits = jnp.zeros((2, 6, 2, 8)), []
    caches = [(empty, empty)] * SHAPE.depth
    for start, end in ((0, 3), (3, 4), (4, 6)):
        part, caches = model.forward(SHAPE, arrays, tokens[:, start:end], start, caches)
        logits.append(part)
    np.testing.assert_allclose(jnp.concatenate(logits, axis=1), model.forward(SHAPE, arrays, tokens)[0], atol=1e-6)


def test_greedy_text_takes_the_most_probable_token_each_time(arrays):
    text = model.write(SHAPE, arrays, jnp.asarray([[BOS, 70, 80]]), 12, 0.0, jax.random.key(0))
    logits, _ = model.forward(SHAPE, arrays, text[:, :-1])
    np.testing.assert_array_equal(text[0, 3:], logits[0, 2:].argmax(axis=-1))


def test_perplexity_of_uniform_probabilities_is_the_vocabulary(arrays, rng):
    zeros, texts = jax.tree.map(jnp.zeros_like, arrays), rng.integers(259, size=(3, 9)).astype(np.int32)
    np.testing.assert_allclose(model.perplexity(SHAPE, zeros, texts, batch=2), 259, rtol=1e-5)


def test_the_whole_way(arrays, tmp_path):
    small = ["--stories=4", "--held=2", "--steps=8", "--batch=2", "--shown=4", "--bits", "2", "--folder", str(tmp_path)]
    stories.main(SHAPE, arrays, Tokenizer(BYTES, [0.0] * len(BYTES)), stories.options(small))
    head, _, *rows = (line.strip("| ").split(" | ") for line in (tmp_path / "table.md").read_text().splitlines())
    assert head == list(stories.COLUMNS)
    assert [row[0] for row in rows] == ["float", "embedding", "round", "equal", "transport", "tuned"]
    assert all(1 < float(row[2]) < 1e4 for row in rows)
    assert (tmp_path / "samples.md").read_text().count(f": {stories.PROMPT}") == len(rows)
    for method, bits, *_ in rows[2:]:
        stored = load(tmp_path / f"{method}_{bits}.safetensors")
        packed = {n: leaf.levels.shape[1] for n, leaf in stored.items() if isinstance(leaf, QuantizedTensor)}
        assert packed.pop("embed/kernel") == 16 and len(packed) == 14 and set(packed.values()) == {4}


def test_a_long_prompt_is_refused_before_anything_is_sampled(arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(stories, "sample", lambda *_: pytest.fail("it sampled"))
    given = stories.options(["--folder", str(tmp_path), "--prompt", "x" * 62])  # and BOS and a space: the context
    with pytest.raises(SystemExit, match="the prompt has 64 tokens"):
        stories.main(SHAPE, arrays, Tokenizer(BYTES, [0.0] * len(BYTES)), given)


def test_another_file_than_the_published_one_is_refused(tmp_path, monkeypatch):
    (tmp_path / "llama2.data").write_bytes(b"not it")
    monkeypatch.setattr(npm.subprocess, "run", lambda *_, **__: pytest.fail("it was fetched again"))
    with pytest.raises(SystemExit, match="SHA-256"):
        stories.published(tmp_path)
