"""The stand-alone reader: independence, arithmetic against direct indexing, and files made by hand."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import mecq_reader
from mecq_jax import storage
from mecq_jax.granularity import PerBlock, PerChannel, PerTensor, from_groups, to_spec
from mecq_jax.storage import QuantizedTensor
from mecq_reader import ArtifactError

pytestmark = pytest.mark.fast

CASES = [
    ((4, 6), PerTensor()),
    ((4, 6), PerChannel()),
    ((4, 6), PerChannel(0)),
    ((4, 6), PerBlock(2)),
    ((4, 6), PerBlock(3, 0)),
    ((2, 3, 4), PerChannel(1)),
    ((2, 3, 4), PerBlock(4, -2)),
    ((5,), PerTensor()),
    ((), PerTensor()),
]


def random_tensor(shape, granularity, k=3, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    g, n = mecq_reader.group_shape(shape, to_spec(granularity))
    codes = rng.integers(0, k, (g, n), np.uint8)
    return QuantizedTensor(codes, rng.normal(size=(g, k)).astype(np.float32), shape, granularity, dtype)


def slow_dense(tensor):
    """levels[g, code] for each weight, its group found by counting through the axes."""
    out = np.empty(tensor.shape, np.float32)
    seen = {}
    for index in np.ndindex(*tensor.shape):
        axis = getattr(tensor.granularity, "axis", None)
        channel = 0 if axis is None else index[axis]
        place = seen.get(channel, 0)
        seen[channel] = place + 1
        width = tensor.codes.shape[1]
        per_channel = out.size if axis is None else out.size // tensor.shape[axis]
        group = channel * (per_channel // width) + place // width
        out[index] = tensor.levels[group, tensor.codes[group, place % width]]
    return out


@pytest.mark.parametrize(("shape", "granularity"), CASES)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 8, 16])
def test_dense_matches_direct_indexing(tmp_path, shape, granularity, k):
    tensor = random_tensor(shape, granularity, k)
    storage.save(tmp_path / "a.mecq", {"w": tensor})
    dense = mecq_reader.read_dense(tmp_path / "a.mecq")["w"]
    assert dense.dtype == np.float32 and dense.flags.c_contiguous
    np.testing.assert_array_equal(dense, slow_dense(tensor))
    np.testing.assert_array_equal(dense, tensor.dense())


@pytest.mark.parametrize(("shape", "granularity"), CASES)
def test_from_groups_agrees_with_granularity(shape, granularity):
    spec = to_spec(granularity)
    g, n = mecq_reader.group_shape(shape, spec)
    groups = np.arange(g * n, dtype=np.float32).reshape(g, n)
    expected = np.asarray(from_groups(jnp.asarray(groups), shape, granularity))
    np.testing.assert_array_equal(mecq_reader.from_groups(groups, shape, spec), expected)


def test_dense_dtypes(tmp_path):
    tensors = {d: random_tensor((4, 6), PerChannel(), dtype=d) for d in ("float16", "bfloat16", "float64")}
    storage.save(tmp_path / "a.mecq", tensors)
    dense = mecq_reader.read_dense(tmp_path / "a.mecq")
    assert {k: v.dtype.name for k, v in dense.items()} == {
        "bfloat16": "float32",
        "float16": "float16",
        "float64": "float64",
    }
    np.testing.assert_array_equal(dense["float16"], slow_dense(tensors["float16"]).astype(np.float16))
    np.testing.assert_array_equal(dense["bfloat16"], slow_dense(tensors["bfloat16"]))


def test_reader_stands_alone(tmp_path):
    tensor = random_tensor((4, 6), PerBlock(2), 8)
    storage.save(tmp_path / "a.mecq", {"w": tensor, "b": np.ones(2, np.float32)})
    (tmp_path / "alone.py").write_bytes(Path(mecq_reader.__file__).read_bytes())
    code = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("alone", "alone.py")
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
before = set(sys.modules)
spec.loader.exec_module(module)
dense = module.read_dense("a.mecq")
assert not {"jax", "mecq_jax", "safetensors", "ml_dtypes"} & set(sys.modules)
new = {m.partition(".")[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)
assert {m for m in new if not m.startswith("_")} <= {"numpy"}, new
print(dense["w"].tobytes().hex())
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == tensor.dense().tobytes().hex()


def test_command_line(tmp_path, capsys):
    path = tmp_path / "a.mecq"
    hard = {"w": random_tensor((4, 6), PerBlock(2), 8), "c": random_tensor((), PerTensor())}
    storage.save(path, {**hard, "b": jnp.bfloat16(1)})
    assert mecq_reader.main([str(path)]) == 0
    out = capsys.readouterr().out
    assert "3 bits, 8 levels" in out and "4x6" in out and "scalar" in out
    assert "3 tensors, checksum verified" in out
    path.write_bytes(path.read_bytes()[:-1])
    assert mecq_reader.main([str(path)]) == 1
    assert mecq_reader.main([]) == 1
    assert "damaged" in (err := capsys.readouterr().err) and "usage" in err


def test_runs_as_a_script(tmp_path):
    storage.save(tmp_path / "a.mecq", {"b": np.ones(2, np.float16)})
    command = [sys.executable, mecq_reader.__file__, str(tmp_path / "a.mecq")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0 and "float16" in run.stdout, run.stderr


def test_a_second_copy_has_no_shared_state():
    spec = importlib.util.spec_from_file_location("second_reader", mecq_reader.__file__)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    assert module.FORMAT_VERSION == mecq_reader.FORMAT_VERSION and module.ArtifactError is not ArtifactError


def forge(path, records, arrays, **changes):
    """A file with a right checksum whose records may contradict its tensors."""
    spec = {"version": 1, "producer": "forger", "tensors": records, "extra": {}, **changes}
    tags = {"uint8": "U8", "float32": "F32", "int8": "I8", "bool": "BOOL"}
    stored = [(n, tags[a.dtype.name], a.shape, a.tobytes()) for n, a in arrays.items()]
    text = json.dumps({**spec, "checksum": mecq_reader.checksum(spec, stored)})
    path.write_bytes(safetensors.numpy.save(arrays, {"mecq": text}))


RECORD = {"shape": [2, 3], "bits": 2, "k": 3, "granularity": {"kind": "PerTensor"}, "dtype": "float32"}
ARRAYS = {"w:codes": np.array([0b10100100, 0b0001], np.uint8), "w:levels": np.array([[-1, 0, 1]], np.float32)}


def test_a_file_by_hand(tmp_path):
    forge(tmp_path / "a", {"w": RECORD}, ARRAYS)
    tensor = mecq_reader.read(tmp_path / "a")["w"]
    assert tensor.codes.tolist() == [[0, 1, 2, 2, 1, 0]] and tensor.bits == 2 and tensor.dtype == "float32"
    assert tensor.dense().tolist() == [[-1, 0, 1], [1, 0, -1]]


@pytest.mark.parametrize(
    ("record", "arrays", "message"),
    [
        ({}, {"w:codes": np.zeros(3, np.uint8)}, r"w:codes is stored as .*3.*needs .*2"),
        ({}, {"w:codes": np.zeros(2, np.int8)}, "w:codes is stored as"),
        ({}, {"w:codes": None}, "w:codes is stored as None"),
        ({}, {"w:levels": np.zeros((2, 3), np.float32)}, "w:levels is stored as"),
        ({}, {"w:levels": np.full((1, 3), np.inf, np.float32)}, "not finite"),
        ({}, {"w:codes": np.array([0b00001100, 0], np.uint8)}, "3 levels; weight 1 has code 3"),
        ({}, {"w:codes": np.array([0, 0b10000], np.uint8)}, "pad bits"),
        ({}, {"x:codes": np.zeros(2, np.uint8)}, "belongs to no recorded"),
        ({}, {"w": np.zeros(2, np.uint8)}, "belongs to no recorded"),
        ({}, {"b": np.array([True]).view(np.uint8) + np.uint8(1), "bool": True}, "above 1"),
        ({"bits": 3}, {}, "3 bits; 3 levels take 2"),
        ({"k": 17}, {}, "17 levels"),
        ({"k": None}, {}, "malformed"),
        ({"shape": [2, -3]}, {}, "malformed"),
        ({"shape": [2, 2**62]}, {}, "malformed"),
        ({"shape": [2, 0]}, {}, "no weights"),
        ({"dtype": "int8"}, {}, "malformed"),
        ({"granularity": {"kind": "PerRow"}}, {}, "PerRow"),
        ({"granularity": {"kind": "PerChannel", "axis": 2}}, {}, "axis 2"),
        ({"granularity": {"kind": "PerChannel"}}, {}, "axis None"),
        ({"granularity": {"kind": "PerBlock", "size": 4, "axis": 0}}, {}, "block of 4"),
        ({"granularity": {"kind": "PerBlock", "axis": 0}}, {}, "block of None"),
    ],
)
def test_contradictions_are_refused(tmp_path, record, arrays, message):
    arrays = dict(arrays)
    if arrays.pop("bool", False):
        arrays["b"] = arrays["b"].view(np.bool_)
    merged = {name: a for name, a in {**ARRAYS, **arrays}.items() if a is not None}
    forge(tmp_path / "a", {"w": {**RECORD, **record}}, merged)
    with pytest.raises(ArtifactError, match=message):
        mecq_reader.read(tmp_path / "a")


@pytest.mark.parametrize("tensors", [None, [], {"w": None}, {"w": []}])
def test_malformed_records_are_refused(tmp_path, tensors):
    forge(tmp_path / "a", tensors, ARRAYS)
    with pytest.raises(ArtifactError, match=r"lacks its table|malformed"):
        mecq_reader.read(tmp_path / "a")


def raw_file(path, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


META = {"__metadata__": {"mecq": '{"version": 1}'}}


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        (b"\xff\xfe", b"", "not valid JSON"),
        (b"[" * 100_000, b"", "not valid JSON"),
        (b"[]", b"", "not a JSON object"),
        (b'{"a": NaN}', b"", "not valid JSON"),
        (b'{"__metadata__": {}, "__metadata__": {}}', b"", "a key occurs twice"),
        ({}, b"", "not an mecq artifact"),
        ({"__metadata__": {"format": "pt"}}, b"", "not an mecq artifact"),
        ({"__metadata__": {"mecq": "{"}}, b"", "not valid JSON"),
        ({"__metadata__": {"mecq": '{"version": true}'}}, b"", "format version True"),
        ({"__metadata__": {"mecq": '{"version": 0}'}}, b"", "format version 0"),
        ({**META, "a": 3}, b"", "malformed"),
        ({**META, "a": {"dtype": "F8", "shape": [1], "data_offsets": [0, 1]}}, b"x", "dtype 'F8'"),
        ({**META, "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 1]}}, b"x", "not 2 bytes"),
        ({**META, "a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}, b"xx", "begins at byte 1"),
        ({**META, "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"xx", "2 bytes of data"),
        ({**META, "a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}, b"xx", "2 bytes of data"),
        (META, b"", "checksum mismatch"),
    ],
)
def test_headers_by_hand(tmp_path, header, body, message):
    raw_file(tmp_path / "a", header, body)
    with pytest.raises(ArtifactError, match=message):
        mecq_reader.read(tmp_path / "a")
