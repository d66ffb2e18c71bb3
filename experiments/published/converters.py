"""Programs that write the tensors of a published file as safetensors: `python -c PROGRAM FILE OUT`.

Each runs in a process of its own with packages that are gone afterwards, so that nothing here depends on them, and
takes tensors alone from the file: no code of it is run.
"""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Converter:
    """A program and the packages that it needs beside numpy and safetensors; `what` reads the file."""

    what: str
    needs: tuple[str, ...]
    program: str


# A file may hold the whole module; its own classes are then stood in for by empty ones, which hold the same tensors.
_TORCH = """
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

# Weights are named 'conv2d/kernel:0' in a group 'conv2d' of their layer.
_KERAS = """
import sys
import h5py
import numpy as np
from safetensors.numpy import save_file
found = {}
with h5py.File(sys.argv[1], "r") as file:
    for layer in file["model_weights"].values():
        for name in layer.attrs["weight_names"]:
            name = name.decode() if isinstance(name, bytes) else name
            found[name.removesuffix(":0")] = np.ascontiguousarray(layer[name])
save_file(found, sys.argv[2])
"""

# Float32 tensors one after the other in the shards of each group.
_TFJS = """
import json, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
place, found = Path(sys.argv[1]), {}
for group in json.loads(place.read_text())["weightsManifest"]:
    data, at = b"".join((place.parent / path).read_bytes() for path in group["paths"]), 0
    for weight in group["weights"]:
        assert weight["dtype"] == "float32" and "quantization" not in weight, weight
        count = int(np.prod(weight["shape"]))
        found[weight["name"]] = np.frombuffer(data, "<f4", count, at).reshape(weight["shape"])
        at += 4 * count
    assert at == len(data), (at, len(data))
save_file(found, sys.argv[2])
"""

_BY_SUFFIX = {
    **dict.fromkeys((".pth", ".pt"), Converter("PyTorch", ("torch==2.13.0", "safetensors", "numpy"), _TORCH)),
    ".h5": Converter("h5py", ("h5py>=3.11,<4", "safetensors", "numpy"), _KERAS),
    ".json": Converter("the reader of TF.js models", (), _TFJS),
}


def converter(file: Path | str) -> Converter:
    """The one for a file's format."""
    return _BY_SUFFIX[Path(file).suffix]
