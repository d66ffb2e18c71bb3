"""Quantized tensors and arrays in one packed, checksummed safetensors file.

`mecq_reader` documents the format and holds the only reading logic; `load` goes through it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Shaped

import mecq_reader
from mecq_jax.granularity import from_spec, to_spec
from mecq_jax.storage._atomic import write_atomically
from mecq_jax.storage._packing import pack
from mecq_jax.storage._tensors import QuantizedTensor
from mecq_reader import FORMAT_VERSION, ArtifactError

PRODUCER = "mecq_jax"  # of a file: what wrote it
Leaf = QuantizedTensor | Shaped[np.ndarray, "..."]  # what a file holds under a path
_TAGS = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64", "bool": "BOOL"}
_TAGS |= {f"{kind}int{b}": f"{kind.upper() or 'I'}{b}" for kind in ("", "u") for b in (8, 16, 32, 64)}


def _leaf(name: str, value: Any) -> Leaf:
    """What is stored of a value; ValueError where that or its name cannot be."""
    if not isinstance(name, str) or not name or ":" in name or name == "__metadata__":
        raise ValueError(
            f"{name!r} cannot name a tensor: a path is a non-empty string without ':' and is not "
            "'__metadata__'; join its parts with '/'"
        )
    if isinstance(value, QuantizedTensor):
        return value
    key = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    array = np.asarray(None if key else value)
    if array.dtype.name not in _TAGS:
        found = value.dtype if key else array.dtype
        raise ValueError(f"{name!r} has dtype {found}, not one of {[*_TAGS]}; cast it or leave it out")
    # The format is little-endian and contiguous; np.ascontiguousarray would turn a scalar into a vector.
    return np.asarray(array, array.dtype.newbyteorder("=") if array.dtype.isbuiltin != 2 else None, order="C")


def _check_json(value: Any, where: str) -> None:
    """Raise a ValueError that names the place of what JSON cannot hold."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}; JSON keys are strings, use {str(key)!r}")
            _check_json(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_json(item, f"{where}[{i}]")
    elif value is not None and not isinstance(value, str | int | float):
        kind = type(value).__name__
        raise ValueError(f"{where} is a {kind}; JSON holds dicts, lists, strings, Python numbers and None")
    elif isinstance(value, float) and not np.isfinite(value):
        raise ValueError(f"{where} is {value}, which JSON cannot hold; give a finite number or None")


def _record(tensor: QuantizedTensor) -> dict[str, Any]:
    """The tensor's entry in the file's JSON."""
    granularity = {k: v if isinstance(v, str) else int(v) for k, v in to_spec(tensor.granularity).items()}
    k = tensor.levels.shape[1]
    shape = list(tensor.shape)
    return {"shape": shape, "bits": tensor.bits, "k": k, "granularity": granularity, "dtype": tensor.dtype}


def _encode(tensors: Mapping[str, Any], extra: Mapping[str, Any]) -> bytes:
    """All bytes of the file."""
    if not isinstance(extra, Mapping):
        raise ValueError(f"extra is a {type(extra).__name__}; give a dict of JSON data")
    _check_json(dict(extra), "extra")
    arrays: dict[str, np.ndarray] = {}
    records = {}
    for name, value in tensors.items():
        leaf = _leaf(name, value)
        if isinstance(leaf, QuantizedTensor):
            records[name] = _record(leaf)
            arrays[f"{name}:codes"] = pack(leaf.codes, leaf.bits)
            arrays[f"{name}:levels"] = np.asarray(leaf.levels, order="C")
        else:
            arrays[name] = leaf
    spec = {"version": FORMAT_VERSION, "producer": PRODUCER, "tensors": records, "extra": dict(extra)}
    stored = [(name, _TAGS[a.dtype.name], a.shape, a.tobytes()) for name, a in arrays.items()]
    text = mecq_reader.canonical({**spec, "checksum": mecq_reader.checksum(spec, stored)})
    return safetensors.numpy.save(arrays, {"mecq": text})


def save(path: str | os.PathLike[str], tensors: Mapping[str, Any], *, extra: Mapping[str, Any] | None = None) -> int:
    """Write tensors to a file, `QuantizedTensor`s packed and arrays as they are.

    The file appears whole or not at all; one already at `path` is replaced only by a complete new one.

    Args:
      path: where to write.
      tensors: `QuantizedTensor` or array by path; a path is a non-empty string without ':'.
      extra: any JSON data to keep with them; `mecq_reader.read_spec(path)["extra"]` gives it back.

    Returns:
      The file's size in bytes.

    Raises:
      ValueError: before anything is written, if a path, a dtype or `extra` cannot be stored.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from mecq_jax import load, save
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     size = save(f"{folder}/m.safetensors", {"dense/bias": np.ones(2, np.float32)})
      ...     load(f"{folder}/m.safetensors")
      {'dense/bias': array([1., 1.], dtype=float32)}
    """
    data = _encode(tensors, {} if extra is None else extra)
    write_atomically(Path(path), data)
    return len(data)


def load(path: str | os.PathLike[str]) -> dict[str, Leaf]:
    """Read the tensors that `save` wrote, bit for bit, once the whole file is verified.

    Args:
      path: a file that `save` wrote.

    Returns:
      `QuantizedTensor` or NumPy array by path, in order of path; arrays of bfloat16 have JAX's type of that name.

    Raises:
      ArtifactError: if the file is missing, damaged, or newer than this library.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from mecq_jax import load, save
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     size = save(f"{folder}/m.safetensors", {"b": np.ones(2, np.float32), "a": np.zeros(3, np.int8)})
      ...     list(load(f"{folder}/m.safetensors"))
      ['a', 'b']
    """
    spec, raws = mecq_reader.read_raw(path)
    out: dict[str, Leaf] = {}
    for name, tensor in mecq_reader.assemble(spec, raws).items():
        if isinstance(tensor, mecq_reader.Tensor):
            try:
                granularity = from_spec(tensor.granularity)
                out[name] = QuantizedTensor(tensor.codes, tensor.levels, tensor.shape, granularity, tensor.dtype)
            except (TypeError, ValueError) as error:
                raise ArtifactError(f"{name!r} in {os.fspath(path)!r} is invalid: {error}") from error
        elif raws[name].dtype == "BF16":
            bits = np.frombuffer(raws[name].data, "<u2").reshape(tensor.shape)
            out[name] = bits.astype(np.uint16).view(jnp.bfloat16)
        else:
            out[name] = tensor
    return out


def _difference(stored: Leaf, given: Leaf) -> str | None:
    """How two tensors differ, in words; None where every bit is the same."""
    if isinstance(stored, QuantizedTensor) and isinstance(given, QuantizedTensor):
        if _record(stored) != _record(given):
            return f"the file records {_record(stored)}, not {_record(given)}"
        pairs = [("codes", stored.codes, given.codes), ("levels", stored.levels, given.levels)]
    elif isinstance(stored, np.ndarray) and isinstance(given, np.ndarray):
        pairs = [("values", stored, given)]
    else:
        return f"the file holds a {type(stored).__name__}, not a {type(given).__name__}"
    for what, a, b in pairs:
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"its {what} are {a.dtype} {a.shape} in the file, not {b.dtype} {b.shape}"
        if a.tobytes() != b.tobytes():
            return f"its {what} differ"
    return None


def verify(path: str | os.PathLike[str], tensors: Mapping[str, Any]) -> None:
    """Check that a file holds these tensors and no others, to the bit.

    Args:
      path: a file that `save` wrote.
      tensors: `QuantizedTensor` or array by path.

    Raises:
      ArtifactError: if the file is not sound, or one of its tensors differs by any bit; the message names the first
        by path.
      ValueError: if one of `tensors` could not be stored at all.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from mecq_jax import save, verify
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     size = save(f"{folder}/m.safetensors", {"b": np.ones(2, np.float32)})
      ...     verify(f"{folder}/m.safetensors", {"b": np.ones(2, np.float32)})
    """
    stored, where = load(path), os.fspath(path)
    given = {name: _leaf(name, value) for name, value in tensors.items()}
    for name in sorted({*stored, *given}):
        if name not in stored or name not in given:
            found = "only" if name in stored else "not"
            raise ArtifactError(f"{name!r} is {found} in {where!r}; save it again")
        if reason := _difference(stored[name], given[name]):
            raise ArtifactError(f"{name!r} differs from {where!r}: {reason}; save it again")
