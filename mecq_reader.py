r"""Read a packed model file with NumPy and the standard library alone; copy this one file to any machine.

    python mecq_reader.py FILE    verifies the file and lists its tensors (Python 3.10 or newer)

A file is a safetensors file, its numbers little-endian: the header's length in 8 bytes, the header, the tensors' bytes.
The header is JSON. It gives each stored tensor by name its "dtype", "shape" and "data_offsets", [begin, end) in the
bytes after the header, which the tensors fill in row-major order without gap or overlap; and `__metadata__`, whose
entry "mecq" is JSON text with the keys

  version   1
  producer  the program that wrote the file
  tensors   {path: {"shape", "bits", "k", "granularity", "dtype"}} for each quantized tensor
  extra     whatever the writer added
  checksum  see `checksum`

A quantized tensor of g groups of n weights is stored as `path:codes` (U8, one packed stream of all g·n codes, group
after group) and `path:levels` (F32, [g, k]). Weight i of group j is levels[j, codes[j, i]], in "dtype" (float16,
bfloat16, float32, float64). Every other tensor is stored under its path, which has no colon. "granularity" gives the
groups in their order, and the order of the weights in each (an axis below 0 counts from the end):

  {"kind": "PerTensor"}                       one group: the weights in row-major order
  {"kind": "PerChannel", "axis": a}           one for each index of axis a, in order: the other axes in row-major order
  {"kind": "PerBlock", "size": s, "axis": a}  those groups, each cut in order into groups of s consecutive weights

Packed codes, k at most 16, bits = max(1, ceil(log2 k)), pad bits zero:

  bits 1, 2, 4  code i occupies bits (i·bits) % 8 and up (0 is the least significant) of byte i·bits // 8.
  bits 3        the low two bits of every code packed at 2 bits (ceil(g·n/4) bytes), then every high bit at 1 bit.

Example (`read_dense(path)` does as much for each tensor of a file):
  >>> from mecq_reader import Raw, assemble
  >>> record = {"shape": [4], "bits": 1, "k": 2, "granularity": {"kind": "PerTensor"}, "dtype": "float32"}
  >>> raws = {"w:codes": Raw("U8", (1,), b"\x06"), "w:levels": Raw("F32", (1, 2), b"\0\0\x80\xbf\0\0\x80\x3f")}
  >>> assemble({"tensors": {"w": record}}, raws)["w"].dense().tolist()
  [-1.0, 1.0, 1.0, -1.0]
"""

import dataclasses
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT_VERSION = 1
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "u1", "BF16": "<u2"}  # BF16: half of a float32's bits
_DTYPES |= {f"{kind}{8 * b}": f"<{kind.lower()}{b}" for kind in "UI" for b in (1, 2, 4, 8)}
_WEIGHT_DTYPES = ("float16", "bfloat16", "float32", "float64")
_DAMAGED = "the file is damaged; fetch it again"


class ArtifactError(ValueError):
    """The file is missing, damaged, altered, or none that this reader knows; the message names what and the remedy."""


class Raw(NamedTuple):
    """A tensor as stored: its safetensors dtype such as 'F32', its shape and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ArtifactError(message)


def bits_for(k: int) -> int:
    """Bits that a code takes among k levels, 1 to 16: max(1, ceil(log2 k))."""
    _need(1 <= k <= 16, f"{k} levels cannot be packed; use 1 to 16")
    return max(1, (k - 1).bit_length())


def packed_size(n: int, bits: int) -> int:
    """Bytes that n packed codes of 1 to 4 bits take."""
    _need(bits in (1, 2, 3, 4) and n >= 0, f"{n} codes of {bits} bits cannot be packed; use 1, 2, 3 or 4, n >= 0")
    return -(-n // 4) + -(-n // 8) if bits == 3 else -(-n * bits // 8)


def unpack(bytes_: np.ndarray, bits: int, n: int) -> np.ndarray:
    """The n codes, uint8 [n], of a packed stream, uint8 [packed_size(n, bits)]."""
    size, actual = packed_size(n, bits), f"{bytes_.dtype} {list(bytes_.shape)}"
    _need(actual == f"uint8 [{size}]", f"{n} codes of {bits} bits are uint8 [{size}], not {actual}; {_DAMAGED}")
    if bits == 3:
        low = packed_size(n, 2)
        return np.asarray(unpack(bytes_[:low], 2, n) | unpack(bytes_[low:], 1, n) << np.uint8(2))
    codes = (bytes_[:, None] >> np.arange(0, 8, bits, dtype=np.uint8) & np.uint8(2**bits - 1)).reshape(-1)
    _need(not codes[n:].any(), f"the pad bits after {n} codes of {bits} bits are not zero; {_DAMAGED}")
    return codes[:n]


def group_shape(shape: Sequence[int], granularity: dict[str, Any]) -> tuple[int, int]:
    """The groups g of a tensor, and the weights n in each."""
    shape, size = tuple(shape), math.prod(shape)
    kind: Any = granularity.get("kind")
    axis: Any = granularity.get("axis")
    _need(size > 0, f"a quantized tensor of shape {shape} holds no weights")
    if kind == "PerTensor":
        return 1, size
    _need(kind in ("PerChannel", "PerBlock"), f"{kind!r} is not PerTensor, PerChannel or PerBlock")
    _need(type(axis) is int and -len(shape) <= axis < len(shape), f"axis {axis!r} is outside a tensor of shape {shape}")
    channel = size // shape[axis]
    block: Any = granularity.get("size") if kind == "PerBlock" else channel
    divides = type(block) is int and block >= 1 and channel % block == 0
    _need(divides, f"a block of {block!r} does not divide the {channel} weights of each channel")
    return size // block, block


def from_groups(groups: np.ndarray, shape: Sequence[int], granularity: dict[str, Any]) -> np.ndarray:
    """The tensor, of `shape`, that the rows of `groups`, [g, n], lie in."""
    shape, need = tuple(shape), group_shape(shape, granularity)
    _need(groups.shape == need, f"groups {groups.shape} do not fit {shape} {granularity}: need {need}")
    if granularity["kind"] == "PerTensor":
        return groups.reshape(shape)
    axis = granularity["axis"] % len(shape)
    return np.asarray(np.moveaxis(groups.reshape(shape[axis], *shape[:axis], *shape[axis + 1 :]), 0, axis), order="C")


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A quantized tensor: codes uint8 [g, n], not packed; levels float32 [g, k]; the rest as the file records it."""

    codes: np.ndarray
    levels: np.ndarray
    shape: tuple[int, ...]
    granularity: dict[str, Any]
    bits: int
    dtype: str

    def dense(self) -> np.ndarray:
        """The weights in `shape` and `dtype`; NumPy has no bfloat16, so that stays float32, not rounded."""
        values = self.levels[np.arange(len(self.codes))[:, None], self.codes]
        dtype = "float32" if self.dtype == "bfloat16" else self.dtype
        return from_groups(values, self.shape, self.granularity).astype(dtype, copy=False)


def canonical(data: Any) -> str:
    """JSON text with sorted keys, no spaces, ASCII only and no NaN or infinity."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def checksum(spec: dict[str, Any], tensors: Iterable[tuple[str, str, Sequence[int], bytes]]) -> str:
    """SHA-256, in hexadecimal, of the mecq JSON without its checksum and of every stored tensor in order of name.

    Hashed: canonical(spec), then for each tensor canonical([name, dtype, shape]) and its raw bytes; each of these
    pieces is preceded by its length in bytes, 8 bytes little-endian.
    """
    digest, pieces = hashlib.sha256(), [canonical(spec).encode()]
    for name, dtype, shape, data in sorted(tensors, key=lambda t: t[0]):
        pieces += [canonical([name, dtype, list(shape)]).encode(), data]
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()


def _parse(text: str | bytes, what: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _need(len(dict(pairs)) == len(pairs), "a key occurs twice")
        return dict(pairs)

    try:
        parsed: dict[str, Any] = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=unique)
        canonical(parsed)  # refuses NaN and infinity
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{what} is not valid JSON ({error}); {_DAMAGED}") from error
    _need(isinstance(parsed, dict), f"{what} is not a JSON object; {_DAMAGED}")
    return parsed


def _is_shape(value: Any) -> bool:
    counts = isinstance(value, list) and len(value) <= 64 and all(type(d) is int and d >= 0 for d in value)
    return counts and math.prod(max(d, 1) for d in value) < 2**60


def _entries(header: dict[str, Any], body: bytes) -> dict[str, Raw]:
    """The tensors, after checking that they fill the body exactly, without gap or overlap."""
    raws, spans, at = {}, {}, 0
    for name, value in header.items():
        entry: Any = value if isinstance(value, dict) else {}
        span, shape, dtype = map(entry.get, ("data_offsets", "shape", "dtype"))
        pair = isinstance(span, list) and len(span) == 2 and all(_is_shape([at]) for at in span)
        _need(pair and _is_shape(shape) and isinstance(dtype, str), f"the header's {name!r} is malformed; {_DAMAGED}")
        _need(dtype in _DTYPES, f"{name!r} has dtype {dtype!r}; this reader knows {sorted(_DTYPES)}")
        size = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
        _need(span[1] - span[0] == size, f"{name!r} spans {span}, not {size} bytes; {_DAMAGED}")
        spans[name] = (span, dtype, shape)
    for name, ((begin, end), dtype, shape) in sorted(spans.items(), key=lambda s: s[1][0]):
        _need(begin == at, f"{name!r} begins at byte {begin} of the data, not {at}; {_DAMAGED}")
        raws[name], at = Raw(dtype, tuple(shape), body[begin:end]), end
    _need(at == len(body), f"{len(body)} bytes of data follow a header that lists {at}; {_DAMAGED}")
    return raws


def read_raw(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Raw]]:
    """The file's mecq JSON and its tensors as stored, by name, after checking structure, version and checksum."""
    where = repr(os.fspath(path))
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {where}: {error.strerror}; check the path") from error
    start = max(9, 8 + int.from_bytes(data[:8], "little"))
    _need(len(data) >= start, f"{where} is truncated or no safetensors file: {len(data)} bytes of {start}")
    header = _parse(data[8:start], f"the safetensors header of {where}")
    metadata = header.pop("__metadata__", None)
    text: Any = metadata.get("mecq") if isinstance(metadata, dict) else None
    _need(isinstance(text, str), f"{where} is not an mecq artifact: its metadata has no 'mecq' entry")
    spec = _parse(text, f"the 'mecq' metadata of {where}")
    version: Any = spec.get("version")
    _need(type(version) is int and version >= 1, f"format version {version!r} of {where}: {_DAMAGED}")
    known = f"this reader knows up to {FORMAT_VERSION}; upgrade mecq-jax or this copy of mecq_reader.py"
    _need(version <= FORMAT_VERSION, f"{where} has format version {version}, {known}")
    raws = _entries(header, data[start:])
    bare = {key: value for key, value in spec.items() if key != "checksum"}
    actual, recorded = checksum(bare, [(name, *raw) for name, raw in raws.items()]), spec.get("checksum")
    _need(recorded == actual, f"checksum mismatch in {where}: {actual!r}, but {recorded!r} is recorded; fetch it again")
    return spec, raws


def decode(name: str, raw: Raw) -> np.ndarray:
    """A stored tensor as a new array; BF16 becomes the float32 of the same value. `name` is for the error alone."""
    array = np.frombuffer(raw.data, _DTYPES[raw.dtype]).reshape(raw.shape)
    if raw.dtype == "BF16":
        return np.asarray(array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    boolean = raw.dtype == "BOOL"
    _need(not (boolean and (array > 1).any()), f"{name!r} is BOOL and holds a byte above 1; {_DAMAGED}")
    return array.astype(np.bool_ if boolean else array.dtype.newbyteorder("="))


def _quantized(name: str, record: Any, raws: dict[str, Raw]) -> Tensor:
    record = record if isinstance(record, dict) else {}
    shape, bits, k, spec, dtype = map(record.get, ("shape", "bits", "k", "granularity", "dtype"))
    well = _is_shape(shape) and type(k) is int and isinstance(spec, dict) and dtype in _WEIGHT_DTYPES
    _need(well, f"the record of {name!r} is malformed: {record!r}")
    _need(bits == bits_for(k), f"{name!r} records {bits!r} bits; {k} levels take {bits_for(k)}")
    g, n = group_shape(shape, spec)
    arrays = []
    for part, want in (("codes", ("U8", (packed_size(g * n, bits),))), ("levels", ("F32", (g, k)))):
        raw: Any = raws.pop(f"{name}:{part}", None)
        _need(raw and raw[:2] == want, f"{name}:{part} is stored as {raw and raw[:2]}; shape {shape} needs {want}")
        arrays.append(decode(name, raw))
    codes, levels = unpack(arrays[0], bits, g * n), arrays[1]
    _need((top := int(codes.max())) < k, f"{name!r} has {k} levels; weight {codes.argmax()} has code {top}")
    _need(bool(np.isfinite(levels).all()), f"{name!r} has levels that are not finite")
    return Tensor(codes.reshape(g, n), levels, tuple(shape), spec, bits, dtype)


def assemble(spec: dict[str, Any], raws: dict[str, Raw]) -> dict[str, Tensor | np.ndarray]:
    """The tensors in `read_raw`'s result, by path, in order of name."""
    records: Any = spec.get("tensors")
    _need(isinstance(records, dict), "the 'mecq' metadata lacks its table of tensors")
    left = dict(raws)
    out: dict[str, Any] = {name: _quantized(name, record, left) for name, record in records.items()}
    for name, raw in left.items():
        _need(":" not in name and name not in out, f"stored tensor {name!r} belongs to no recorded one")
        out[name] = decode(name, raw)
    return dict(sorted(out.items()))


def read(path: str | os.PathLike[str]) -> dict[str, Tensor | np.ndarray]:
    """Every tensor of a file by path, or an `ArtifactError` and nothing."""
    return assemble(*read_raw(path))


def read_dense(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Every tensor of a file by path, quantized ones as their `Tensor.dense()`."""
    return {k: t.dense() if isinstance(t, Tensor) else t for k, t in read(path).items()}


def read_spec(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The file's mecq JSON, verified; its keys are in the module's docstring."""
    return read_raw(path)[0]


def main(argv: Sequence[str]) -> int:
    """Verify a file and print a table of its tensors; the exit status is 0 if it is sound."""
    try:
        _need(len(argv) == 1, "usage: python mecq_reader.py FILE")
        tensors = read(argv[0])
    except ArtifactError as error:
        print(error, file=sys.stderr)
        return 1
    for name, t in tensors.items():
        bits = t.bits if isinstance(t, Tensor) else 8 * t.dtype.itemsize
        how = f", {t.levels.shape[1]} levels, {canonical(t.granularity)}" if isinstance(t, Tensor) else ""
        shown = name if name.isprintable() else repr(name)
        print(f"{shown:40} {'x'.join(map(str, t.shape)) or 'scalar':16} {t.dtype!s:10} {bits} bits{how}")
    print(f"{len(tensors)} tensors, checksum verified")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
