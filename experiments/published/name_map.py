"""Tensors of a foreign checkpoint under our names: a list of rules, checked to be one to one. NumPy alone.

load_by_map("theirs.safetensors", [Rename(r"(.*)/kernel", r"\\1.weight", "conv")], like)
"""

import dataclasses
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda x: x,
    "linear": lambda x: x.T,  # [out, in] -> [in, out]
    "conv": lambda x: x.transpose(2, 3, 1, 0),  # OIHW -> HWIO
    "reversed_inputs": lambda x: x[:, :, ::-1],  # HWIO, for images whose channels are the other way round
}
_DIMENSIONS = {"linear": 2, "conv": 4, "reversed_inputs": 4}


@dataclasses.dataclass(frozen=True)
class Rename:
    """Where a tensor of ours comes from.

    Attributes:
      ours: a regular expression for the whole of our name.
      theirs: a template of their name, with the groups of `ours` as \\1, \\2, ...
      layout: of `LAYOUTS`: 'same', 'linear' (theirs is transposed), 'conv' (theirs is OIHW, ours HWIO) or
        'reversed_inputs' (theirs is HWIO and sees the channels in the other order).
    """

    ours: str
    theirs: str
    layout: str = "same"

    def __post_init__(self):
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout {self.layout!r} of {self.ours!r} is not one of {sorted(LAYOUTS)}")


def read_tensors(path: Path | str) -> dict[str, np.ndarray]:
    """Every tensor of a .safetensors or .npz file by its name."""
    path = Path(path)
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"{path}: a checkpoint is read from .safetensors or .npz; convert it where its library is")
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}; `python -m experiments.published fetch` gets those known here")
    try:
        if path.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (safetensors.SafetensorError, zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); fetch or write it again") from error


def load_by_map(
    path: Path | str, name_map: Sequence[Rename], like: Mapping[str, Any], ignore: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The tensors of `path` by our names, in our layouts and types.

    Args:
      path: a .safetensors or .npz file.
      name_map: exactly one rule for each of our names.
      like: our names, each with an array of the shape and type that it must have (`run.named` gives them).
      ignore: regular expressions for whole names of theirs that nothing of ours is made of.

    Raises:
      ValueError: lists all of ours that were not found, of theirs that were left over, and shapes that differ.
    """
    theirs = read_tensors(path)
    names = {ours: _source(ours, name_map) for ours in like}
    _one_to_one({ours: name for ours, (name, _) in names.items()})
    missing = [f"{ours} (expected as {name})" for ours, (name, _) in names.items() if name not in theirs]
    used = {name for name, _ in names.values()}
    left = [name for name in theirs if name not in used and not any(re.fullmatch(p, name) for p in ignore)]
    found, differ = {}, []
    for ours, (name, layout) in names.items():
        if name not in theirs:
            continue
        value, wanted = theirs[name], like[ours]
        if value.ndim == _DIMENSIONS.get(layout, value.ndim):
            value = LAYOUTS[layout](value)
        if value.shape != tuple(wanted.shape):
            differ.append(f"{ours} is {tuple(wanted.shape)}, {name} is {theirs[name].shape} ({layout})")
            continue
        found[ours] = np.ascontiguousarray(value, dtype=wanted.dtype).reshape(value.shape)
    problems = [("missing", missing), ("left over", left), ("of another shape", differ)]
    if any(lines for _, lines in problems):
        text = "".join(f"\n{len(lines)} {what}:\n  " + "\n  ".join(lines) for what, lines in problems if lines)
        raise ValueError(
            f"{path} does not fit the name map{text}\nCorrect the rules, or name in `ignore` what nothing is made of"
        )
    return found


def _source(ours: str, name_map: Sequence[Rename]) -> tuple[str, str]:
    """(their name, layout) by the one rule for `ours`."""
    found = [(m.expand(rule.theirs), rule.layout) for rule in name_map if (m := re.fullmatch(rule.ours, ours))]
    if len(found) != 1:
        raise ValueError(f"{len(found)} rules are for {ours!r}, there must be one: {[name for name, _ in found]}")
    return found[0]


def _one_to_one(names: Mapping[str, str]) -> None:
    taken: dict[str, str] = {}
    for ours, name in names.items():
        if name in taken:
            raise ValueError(f"{taken[name]!r} and {ours!r} are both made of {name!r}; correct a rule")
        taken[name] = ours
