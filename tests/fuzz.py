"""Damaged and hostile packed files against the reader:  python -m tests.fuzz [--files N] [--seed I]

Small valid files are damaged (cut, bits flipped, bytes overwritten, zeros appended) or edited by someone who knows the
format and makes the checksum right again (shapes, bits, offsets, names, dtypes, nesting: huge, negative, missing, of
another type). Each must end in an ArtifactError, or, where nothing that counts was changed, in the same tensors; an
edited file may also be another valid file, whose tensors then keep every invariant. Memory stays within `FACTOR` times
the file and a fixed `BASE`, whatever sizes it declares.
"""

import argparse
import collections
import copy
import json
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import mecq_reader
from mecq_jax import storage
from mecq_jax.granularity import Granularity, PerBlock, PerChannel, PerTensor, group_shape
from mecq_jax.storage import QuantizedTensor

FACTOR, BASE = 128, 2**20
_NUMBERS = (0, -1, 1, 2, 3, 5, 16, 17, 255, 2**31, 2**62, 2**63, 10**30, 0.5, 1e308, True, None)
_NAMES = ("", "x", "../../x", "/etc/x", "a:codes", "__metadata__", "\x00")
_KINDS = ("PerTensor", "PerChannel", "PerBlock", "float64", "BF16")
_NESTED: tuple[Any, ...] = ([], [0], [2**40, 2**40], [1] * 65, [[[[]]]], {})
_GROUPS = ({"kind": "PerBlock", "axis": -1, "size": 0}, {"kind": "PerChannel", "axis": 99})
HOSTILE: list[Any] = [*_NUMBERS, *_NAMES, *_KINDS, *_NESTED, *_GROUPS]


def valid_file(rng: np.random.Generator, path: Path) -> None:
    """A file of a few small tensors of all kinds."""
    tensors: dict[str, Any] = {"plain/bias": rng.normal(size=3).astype(np.float32), "scalar": np.int32(7)}
    granularities: list[Granularity] = [PerTensor(), PerChannel(-1), PerChannel(0), PerBlock(2, -1)]
    for i in range(int(rng.integers(1, 4))):
        granularity, k = granularities[rng.integers(4)], int(rng.integers(1, 17))
        shape = (int(rng.integers(1, 4)) * 2, int(rng.integers(1, 6)))
        g, n = group_shape(shape, granularity)
        levels = rng.normal(size=(g, k)).astype(np.float32)
        tensors[f"q{i}"] = QuantizedTensor(rng.integers(0, k, (g, n), dtype=np.uint8), levels, shape, granularity)
    storage.save(path, tensors, extra={"note": "fuzz"})


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        out[rng.integers(len(out))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def overwritten(data: bytes, rng: np.random.Generator) -> bytes:
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 32))
    return data[:at] + rng.bytes(size) + data[at + size :]


def extended(data: bytes, rng: np.random.Generator) -> bytes:
    return data + bytes(int(rng.integers(1, 100)))


def edited(data: bytes, rng: np.random.Generator) -> bytes:
    """One or two places of the header or of our metadata replaced, sometimes the body's, and the file signed again."""
    start = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:start]), bytearray(data[start:])
    if rng.random() < 0.3:  # other codes, or levels that are not finite
        at = int(rng.integers(len(body)))
        body[at : at + 4] = b"\x00\x00\xc0\x7f" if rng.random() < 0.3 else rng.bytes(len(body[at : at + 4]))
    spec = json.loads(header["__metadata__"]["mecq"])
    for _ in range(rng.integers(1, 3)):
        part = "header" if rng.random() < 0.4 else "spec"
        changed = _replaced(copy.deepcopy(header if part == "header" else spec), rng)
        header, spec = (changed, spec) if part == "header" else (header, changed)
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict) and isinstance(spec, dict):
        header["__metadata__"]["mecq"] = json.dumps(spec | {"checksum": _signature(header, spec, body)})
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(body)


def _replaced(tree: Any, rng: np.random.Generator) -> Any:
    """The JSON `tree` with a value, a key or an entry at some depth changed."""
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        keys = [key for key in keys if key not in ("__metadata__", "checksum")]
        if not keys:
            return tree
        key = keys[rng.integers(len(keys))]
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.75:
            node = node[key]
            continue
        value = HOSTILE[rng.integers(len(HOSTILE))]
        if isinstance(node, dict) and rng.random() < 0.3:
            moved = node.pop(key)
            if rng.random() < 0.6:
                node[value if isinstance(value, str) else str(value)] = moved
        else:
            node[key] = value
        return tree


def _signature(header: dict, spec: dict, body: bytearray) -> str:
    """The checksum that the reader will compute, as far as the entries allow one."""
    stored = []
    for name, entry in header.items():
        try:
            begin, end = entry["data_offsets"]
            stored.append((name, entry["dtype"], entry["shape"], bytes(body[begin:end])))
        except (TypeError, KeyError, ValueError):
            continue
    try:
        return mecq_reader.checksum({key: value for key, value in spec.items() if key != "checksum"}, stored)
    except (TypeError, ValueError):
        return ""


KINDS: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    damage.__name__: damage for damage in (cut, flipped, overwritten, extended, edited)
}


def outcome(path: Path, original: dict[str, np.ndarray], may_differ: bool) -> str:
    """'refused', 'the same' or 'another valid file'; AssertionError for all else."""
    tracemalloc.start()
    try:
        found = {
            name: (t, t.dense() if isinstance(t, mecq_reader.Tensor) else t)
            for name, t in mecq_reader.read(path).items()
        }
    except mecq_reader.ArtifactError as error:
        assert str(error), "an error without a word"
        return "refused"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < BASE + FACTOR * path.stat().st_size, f"{peak} bytes for a file of {path.stat().st_size}"
    same = found.keys() == original.keys() and all(
        dense.dtype == original[name].dtype and np.array_equal(dense, original[name], equal_nan=True)
        for name, (_, dense) in found.items()
    )
    if same:
        return "the same"
    assert may_differ, "a damaged file was read as another one"
    for name, (tensor, dense) in found.items():
        assert isinstance(name, str) and ":" not in name
        if isinstance(tensor, mecq_reader.Tensor):
            assert dense.shape == tensor.shape and np.isfinite(tensor.levels).all()
            assert tensor.codes.max() < tensor.levels.shape[1]
    return "another valid file"


def fuzz(files: int, seed: int) -> collections.Counter:
    """Counts of (kind, outcome) over so many files."""
    rng, counts = np.random.default_rng(seed), collections.Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        for i in range(files):
            if i % 20 == 0:
                valid_file(rng, path)
                data, original = path.read_bytes(), mecq_reader.read_dense(path)
            kind = list(KINDS)[i % len(KINDS)]
            path.write_bytes(KINDS[kind](data, rng))
            counts[kind, outcome(path, original, may_differ=kind == "edited")] += 1
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for (kind, what), count in sorted(fuzz(options.files, options.seed).items()):
        print(f"{kind:12} {what:20} {count:6}")
