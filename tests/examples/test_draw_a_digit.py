"""The page of drawn digits: its folder, what it asks to be installed, and the page itself in Chromium."""

import json
import re
import shutil
from pathlib import Path
from urllib.request import urlopen

import jax
import numpy as np
import pytest

from examples.draw_a_digit import __main__ as command
from examples.draw_a_digit import check, network, page
from mecq_jax import export, save

pytestmark = pytest.mark.usefixtures("standard_promotion")
DATA = network.digits()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A packed file of the shortest training there is."""
    path = tmp_path_factory.mktemp("network") / "model.safetensors"
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        save(path, network.trained(DATA, steps=8))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with files of onnxruntime-web's names."""
    for name in page.RUNTIME:
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_the_folder_holds_all_that_the_page_names(file, folder):
    logits = page.build(file, folder, DATA)(DATA.test_images)
    assert {p.name for p in folder.iterdir()} == {"index.html", "model.onnx", *page.RUNTIME}
    text = (folder / "index.html").read_text()
    assert set(re.findall(r'"\./([^"]+)"', text)) == {"model.onnx", "test.json", *page.RUNTIME}
    assert not re.search(r"(src|href)=|https?://", text.replace('href="data:,"', "")), "it asks no other server"
    session = export.onnx_session((folder / "model.onnx").read_bytes())
    (by_onnx,) = session.run(None, {"input": DATA.test_images})
    np.testing.assert_array_equal(by_onnx.argmax(axis=1), logits.argmax(axis=1))
    facts = json.loads(re.search(r'<script id="facts" type="application/json">(.*?)</script>', text, re.DOTALL)[1])
    assert (facts["right"], facts["images"]) == ((logits.argmax(axis=1) == DATA.test_labels).sum(), 360)
    assert facts["file_bytes"] == file.stat().st_size < facts["float_bytes"] / 4
    assert facts["onnx_bytes"] == (folder / "model.onnx").stat().st_size > facts["onnx_gzip_bytes"]
    for shown in facts["examples"] + facts["wrong"]:
        (i,) = np.flatnonzero((DATA.test_images.reshape(-1, 64) == shown["image"]).all(axis=1))[:1]
        assert (shown["label"], shown["read"]) == (DATA.test_labels[i], logits[i].argmax())
    assert all(e["label"] == e["read"] for e in facts["examples"]) and len(facts["wrong"]) == 4


def test_batches_are_shifted_by_at_most_a_pixel():
    images, labels = next(network.batches(DATA.train_images, DATA.train_labels, size=5))
    for image, label in zip(images, labels, strict=True):
        inner = image[1:-1, 1:-1]
        found = [
            (DATA.train_images[:, y : y + 6, x : x + 6] == inner).all(axis=(1, 2, 3))
            for x in range(3)
            for y in range(3)
        ]
        assert label in DATA.train_labels[np.any(found, axis=0)]


def test_the_server_gives_the_folder(tmp_path):
    (tmp_path / "a.mjs").write_text("export {}")
    with check.served(tmp_path) as address, urlopen(f"{address}/a.mjs") as answer:
        assert answer.read() == b"export {}" and "javascript" in answer.headers["Content-Type"]


def test_a_file_of_another_network_is_refused(folder):
    save(folder / "model.safetensors", {"a": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="no such name"):
        command.main(["--folder", str(folder)])


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
        check.opened("http://localhost", str(program))


def test_other_answers_than_jax_gives_are_an_error(tmp_path, monkeypatch):
    images = np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1)
    drawn = [{"digit": 0, "read": 0, "image": [0] * 64}, {"digit": 5, "read": 1, "image": [9] * 64}]
    right = {"logits": np.eye(10)[:2].tolist(), "runtime": page.VERSION, "drawn": drawn}

    def checked(**found):
        monkeypatch.setattr(check, "opened", lambda *_: right | found)
        return check.check(tmp_path, images, lambda x: np.eye(10, dtype=np.float32)[: len(x)])

    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="none of chromium"):
        checked()
    monkeypatch.setattr(shutil, "which", lambda name: "true")
    assert "2 of 2 images" in (said := checked()) and "within 0e+00" in said and "1 of 2 digits drawn" in said
    asked = json.loads((tmp_path / "test.json").read_text())
    np.testing.assert_array_equal(np.reshape(asked["images"], images.shape), images)
    points = [p for d in asked["drawn"] for line in d["lines"] for p in line]
    assert [d["digit"] for d in asked["drawn"]] == list(range(10)) and all(0 < c < 1 for p in points for c in p)
    with pytest.raises(export.MismatchError, match="1 of 2 images"):
        checked(logits=np.eye(10)[[0, 2]].tolist())
    with pytest.raises(export.MismatchError, match="drawn digits"):
        checked(drawn=drawn[::-1])


@pytest.mark.skipif(not any(map(shutil.which, check.BROWSERS)), reason="no Chromium")
@pytest.mark.skipif(shutil.which("npm") is None, reason="no npm")
def test_chromium_computes_what_jax_computes(file, capsys):
    command.main(["--folder", str(file.parent), "--check"])
    assert "360 of 360 images in the class that JAX gives them" in capsys.readouterr().out
