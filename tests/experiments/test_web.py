"""The page of drawn digits: its folder, what it asks to be installed, and the page itself in Chromium."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.config import Config
from experiments.data import in_memory as data
from experiments.portability import web
from experiments.training.run import run
from mecq_jax import export

pytestmark = pytest.mark.usefixtures("standard_promotion")
TINY = Config(model="mlp", width=32, float_epochs=1, soft_epochs=0, hard_epochs=0, train_size=200)


@pytest.fixture
def runtime(tmp_path) -> Path:
    """A folder with files of onnxruntime-web's names."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in web.RUNTIME:
        (folder / name).write_bytes(name.encode())
    return folder


def facts_of(page: str) -> dict:
    """The JSON inside the page."""
    return json.loads(re.search(r'<script id="facts" type="application/json">(.*?)</script>', page, re.DOTALL)[1])


def test_the_folder_holds_all_that_the_page_names(tmp_path, runtime):
    network = run(TINY, tmp_path / "run").folder
    site = web.build(network, tmp_path / "page", runtime)
    assert {p.name for p in site.folder.iterdir()} == {"index.html", "model.onnx", "test.json", *web.RUNTIME}
    for name in web.RUNTIME:
        assert (site.folder / name).read_bytes() == name.encode()
    page = (site.folder / "index.html").read_text()
    named = set(re.findall(r'"\./([^"]+)"', page))
    assert named == {"model.onnx", "test.json", *web.RUNTIME}
    assert not re.search(r"(src|href)=|https?://", page.replace('href="data:,"', "")), "it asks no other server"
    facts, dataset = facts_of(page), data.load("digits")
    test = json.loads((site.folder / "test.json").read_text())
    np.testing.assert_array_equal(np.reshape(test["images"], dataset.test_images.shape), dataset.test_images)
    assert test["labels"] == dataset.test_labels.tolist() and [d["digit"] for d in test["drawn"]] == list(range(10))
    points = [p for d in test["drawn"] for line in d["lines"] for p in line]
    assert all(0 < c < 1 for p in points for c in p), "the strokes lie on the pad"
    session = export.onnx_session((site.folder / "model.onnx").read_bytes())
    (logits,) = session.run(None, {"input": dataset.test_images})
    assert facts["right"] == (logits.argmax(axis=1) == dataset.test_labels).sum() and facts["images"] == 359
    assert facts["file_bytes"] == (network / "model.safetensors").stat().st_size < facts["float_bytes"]
    assert facts["onnx_bytes"] == (site.folder / "model.onnx").stat().st_size > facts["onnx_gzip_bytes"]
    for example in facts["examples"] + facts["wrong"]:
        (i,) = np.flatnonzero((dataset.test_images.reshape(359, 64) == example["image"]).all(axis=1))[:1]
        assert (example["label"], example["read"]) == (dataset.test_labels[i], logits[i].argmax())
    assert all(e["label"] == e["read"] for e in facts["examples"]) and len(facts["wrong"]) == web.EXAMPLES_WRONG


def test_the_server_gives_the_folder(tmp_path):
    from urllib.request import urlopen

    (tmp_path / "a.mjs").write_text("export {}")
    with web.served(tmp_path) as address, urlopen(f"{address}/a.mjs") as answer:
        assert answer.read() == b"export {}" and "javascript" in answer.headers["Content-Type"]


def test_what_is_missing_is_named(tmp_path, runtime, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"npm.*install Node\.js.*--runtime"):
        web.runtime_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="none of chromium"):
        web.browser()
    with pytest.raises(FileNotFoundError, match="--run the folder of a finished run"):
        web.build(tmp_path / "no run", tmp_path / "page", runtime)
    assert web.main(["--run", str(tmp_path / "no run"), "--runtime", str(runtime)]) == 2
    assert "error: " in capsys.readouterr().err
    network = run(TINY, tmp_path / "run").folder
    (runtime / web.RUNTIME[1]).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {web.RUNTIME[1]}"):
        web.build(network, tmp_path / "page", runtime)
    assert not (tmp_path / "page").exists()


def test_a_network_of_other_images_is_refused(tmp_path, runtime):
    from mecq_jax import storage

    for config in ({"dataset": "cifar10", "downscale": 2}, {}):
        storage.save(tmp_path / "model.safetensors", {"a": np.zeros(3, np.float32)}, extra={"config": config})
        with pytest.raises(ValueError, match="digits of 8 x 8"):
            web.build(tmp_path, tmp_path / "page", runtime)


def test_fetched_files_are_not_fetched_again(tmp_path, runtime, monkeypatch):
    runtime.rename(tmp_path / f"onnxruntime-web-{web.VERSION}")
    monkeypatch.setattr(shutil, "which", lambda name: pytest.fail("it asked for npm"))
    assert web.runtime_folder(tmp_path) == tmp_path / f"onnxruntime-web-{web.VERSION}"


@pytest.mark.parametrize(
    "answer, error",
    [
        ("", "did not answer"),
        ('{"error": "no &lt;wasm&gt;"}', "run its network: no <wasm>"),
        ('{"runtime": "1.0"}', "holds onnxruntime-web 1.0"),
    ],
)
def test_a_page_that_fails_is_an_error(tmp_path, answer, error):
    program = tmp_path / "chromium"
    program.write_text(f'#!/bin/sh\necho \'<pre id="check" hidden="">{answer}</pre>\'\n')
    program.chmod(0o755)
    with pytest.raises(RuntimeError, match=error):
        web.opened("http://localhost", str(program))


def test_other_answers_than_jax_gives_are_an_error(tmp_path, monkeypatch):
    images = np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1)
    site = web.Site(tmp_path, {"images": 2}, lambda x: np.eye(10, dtype=np.float32)[: len(x)], images)
    drawn = [{"digit": 0, "read": 0, "image": [0] * 64}, {"digit": 5, "read": 1, "image": [9] * 64}]
    right = {"logits": np.eye(10)[:2].tolist(), "runtime": web.VERSION, "drawn": drawn}
    monkeypatch.setattr(web, "browser", lambda: "true")
    monkeypatch.setattr(web, "opened", lambda *_: right)
    row = web.check(site)
    assert (row["difference"], row["drawn"], row["drawn_right"]) == (0.0, 2, 1)
    monkeypatch.setattr(web, "opened", lambda *_: right | {"logits": np.eye(10)[[0, 2]].tolist()})
    with pytest.raises(export.MismatchError, match="1 of 2 images"):
        web.check(site)
    monkeypatch.setattr(web, "opened", lambda *_: right | {"drawn": drawn[::-1]})
    with pytest.raises(export.MismatchError, match="drawn digits"):
        web.check(site)


@pytest.mark.skipif(not any(map(shutil.which, web.BROWSERS)), reason="no Chromium")
@pytest.mark.skipif(shutil.which("npm") is None, reason="no npm")
def test_chromium_computes_what_jax_computes(tmp_path):
    runtime = web.runtime_folder(web.ROOT)  # kept there, so that npm is asked once
    site = web.build(run(TINY, tmp_path / "run").folder, tmp_path / "page", runtime)
    row = web.check(site)
    assert row["difference"] < export.TOLERANCE and row["drawn"] == 10 and row["onnxruntime-web"] == web.VERSION
    assert "359 of 359 images" in web.sentence(row)
