"""Packed files on disk: exact round trips, refusal of damage, atomic writes."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import mecq_reader
from mecq_jax import storage
from mecq_jax.granularity import PerBlock, PerChannel, PerTensor, group_shape
from mecq_jax.storage import QuantizedTensor, _file
from mecq_reader import ArtifactError, packed_size

pytestmark = pytest.mark.fast


def tensor(shape=(4, 6), granularity=None, k=3, dtype="float32"):
    granularity = granularity or PerChannel()
    g, n = group_shape(shape, granularity)
    rng = np.random.default_rng(k)
    levels = rng.normal(size=(g, k)).astype(np.float32)
    return QuantizedTensor(rng.integers(0, k, (g, n), np.uint8), levels, shape, granularity, dtype)


def same(a, b):
    if isinstance(a, QuantizedTensor):
        assert isinstance(b, QuantizedTensor)
        assert (a.shape, a.granularity, a.dtype) == (b.shape, b.granularity, b.dtype)
        same(a.codes, b.codes)
        same(a.levels, b.levels)
    else:
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 9, 16])
@pytest.mark.parametrize(
    ("shape", "granularity"),
    [
        ((4, 6), PerTensor()),
        ((4, 6), PerChannel()),
        ((4, 6), PerChannel(0)),
        ((3, 4, 6), PerBlock(6)),
        ((3, 4, 6), PerBlock(9, 1)),
        ((), PerTensor()),
    ],
)
def test_quantized_tensors_round_trip(tmp_path, shape, granularity, k):
    tensors = {f"layer/{d}": tensor(shape, granularity, k, d) for d in ("float32", "bfloat16", "float16")}
    size = storage.save(tmp_path / "a.mecq", tensors)
    assert size == os.path.getsize(tmp_path / "a.mecq")
    loaded = storage.load(tmp_path / "a.mecq")
    assert list(loaded) == sorted(tensors)
    for name, value in tensors.items():
        same(value, loaded[name])
        same(value.dense(), loaded[name].dense())
    storage.verify(tmp_path / "a.mecq", tensors)


BITS16 = np.arange(2**16, dtype=np.uint16)
ARRAYS = {
    "bf16/every/pattern": BITS16.view(jnp.bfloat16),
    "f16/every/pattern": BITS16.view(np.float16),
    "f32/nan payloads": np.array([0x7FC00001, 0xFFFFFFFF, 0x80000000, 1], np.uint32).view(np.float32),
    "f64": np.array([np.pi, -0.0]),
    "scalar": np.array(3, np.float32),
    "bf16/scalar": np.array(3, jnp.bfloat16),
    "empty": np.zeros((0, 3), np.float32),
    "bool": np.array([[True], [False]]),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "naïve/漢": np.arange(3, dtype=np.float32),
    **{f"int/{d}": np.array([[0, 1, 127]], d) for d in "bhilBHIL"},
}


def test_arrays_round_trip_bit_for_bit(tmp_path):
    storage.save(tmp_path / "a.mecq", ARRAYS)
    loaded = storage.load(tmp_path / "a.mecq")
    assert set(loaded) == set(ARRAYS)
    for name, value in ARRAYS.items():
        same(value, loaded[name])
        assert isinstance(loaded[name], np.ndarray) and loaded[name].flags.writeable
    storage.verify(tmp_path / "a.mecq", ARRAYS)


def test_reader_upcasts_bfloat16_exactly(tmp_path):
    storage.save(tmp_path / "a.mecq", ARRAYS)
    arrays = mecq_reader.read(tmp_path / "a.mecq")
    assert all(isinstance(a, np.ndarray) and a.shape == ARRAYS[name].shape for name, a in arrays.items())
    wide = arrays["bf16/every/pattern"]
    assert wide.dtype == np.float32
    np.testing.assert_array_equal(wide.view(np.uint32), BITS16.astype(np.uint32) << np.uint32(16))


def test_jax_arrays_and_foreign_byte_order(tmp_path):
    given = {"a": jnp.arange(3, dtype=jnp.bfloat16), "s": jnp.float32(2), "b": np.arange(3, dtype=">f4")}
    storage.save(tmp_path / "a.mecq", given)
    loaded = storage.load(tmp_path / "a.mecq")
    same(loaded["a"], np.arange(3).astype(jnp.bfloat16))
    same(loaded["s"], np.array(2, np.float32))
    same(loaded["b"], np.arange(3, dtype=np.float32))
    storage.verify(tmp_path / "a.mecq", given)


def test_other_programs_can_open_the_file(tmp_path):
    hard = tensor(k=3)
    storage.save(tmp_path / "a.safetensors", {"w": hard, "b": np.ones(2, np.float32)}, extra={"step": 7})
    raw = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert set(raw) == {"w:codes", "w:levels", "b"}
    assert raw["w:codes"].shape == (packed_size(24, 2),) and raw["w:codes"].dtype == np.uint8
    np.testing.assert_array_equal(raw["w:levels"], hard.levels)
    with safetensors.safe_open(tmp_path / "a.safetensors", "np") as file:
        spec = json.loads(file.metadata()["mecq"])
    assert spec == mecq_reader.read_spec(tmp_path / "a.safetensors")
    assert set(spec) == {"version", "producer", "tensors", "extra", "checksum"}
    assert spec["tensors"] == {
        "w": {"shape": [4, 6], "bits": 2, "k": 3, "granularity": {"kind": "PerChannel", "axis": -1}, "dtype": "float32"}
    }
    assert spec["extra"] == {"step": 7} and spec["version"] == 1


def test_dense_is_an_array(tmp_path):
    for dtype in ("float32", "bfloat16"):
        scalar = tensor((), PerTensor(), 2, dtype)
        storage.save(tmp_path / "a.mecq", {"s": scalar})
        for dense in (scalar.dense(), mecq_reader.read_dense(tmp_path / "a.mecq")["s"]):
            assert isinstance(dense, np.ndarray) and dense.shape == ()


def test_size_on_disk_is_the_packed_size(tmp_path):
    hard = tensor((1000, 8), PerTensor(), 8)
    size = storage.save(tmp_path / "a.mecq", {"w": hard})
    assert hard.nbytes == 3000 + 32 and hard.nbytes < size < hard.nbytes + 600


def test_empty_file(tmp_path):
    storage.save(tmp_path / "a.mecq", {})
    assert storage.load(tmp_path / "a.mecq") == {}


@pytest.mark.parametrize("name", ["", "a:b", ":", "__metadata__", 3])
def test_bad_names(tmp_path, name):
    with pytest.raises(ValueError, match="cannot name a tensor"):
        storage.save(tmp_path / "a.mecq", {name: np.ones(2, np.float32)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"a": [1, {2}]}, r"extra\['a'\]\[1\] is a set"),
        ({"a": {"b": float("nan")}}, r"extra\['a'\]\['b'\] is nan"),
        ({"a": {1: 2}}, "key 1; JSON keys are strings"),
        ({"a": np.float32(1)}, "is a float32"),
        ([1], "extra is a list"),
    ],
)
def test_extra_must_be_json(tmp_path, extra, message):
    with pytest.raises(ValueError, match=message):
        storage.save(tmp_path / "a.mecq", {"b": np.ones(2, np.float32)}, extra=extra)
    assert not list(tmp_path.iterdir())


def test_extra_comes_back(tmp_path):
    extra = {"é": [None, True, 1.5, -0.0, {"deep": (1, 2)}], "big": 2**80, "f": np.float64(0.1)}
    storage.save(tmp_path / "a.mecq", {}, extra=extra)
    back = mecq_reader.read_spec(tmp_path / "a.mecq")["extra"]
    assert back == {**extra, "é": [None, True, 1.5, 0.0, {"deep": [1, 2]}]}


@pytest.mark.parametrize("value", ["text", None, np.complex64(1), jnp.ones(2, jnp.float8_e4m3fn), object()])
def test_dtypes_that_do_not_fit(tmp_path, value):
    with pytest.raises(ValueError, match="'b' has dtype"):
        storage.save(tmp_path / "a.mecq", {"b": value})
    with pytest.raises(ValueError, match="key<"):
        storage.save(tmp_path / "a.mecq", {"b": jax.random.key(0)})


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "a.mecq"
    tensors = {"w": tensor((2, 3), PerTensor(), 3), "b": np.ones(2, jnp.bfloat16)}
    storage.save(path, tensors, extra={"note": "n"})
    return path, tensors


def test_every_truncation_is_refused(small):
    path, _ = small
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ArtifactError):
            storage.load(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ArtifactError):
        storage.load(path)


@pytest.mark.parametrize("mask", [1, 2, 4, 8, 16, 32, 64, 128, 255])
def test_every_flipped_byte_is_refused(small, mask):
    path, _ = small
    data = path.read_bytes()
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ mask]) + data[i + 1 :])
        with pytest.raises(ArtifactError):
            storage.load(path)


def test_missing_file_and_directory(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ArtifactError, match="cannot read"):
            storage.load(path)


def test_newer_version_names_both_and_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(_file, "FORMAT_VERSION", 2)
    storage.save(tmp_path / "a.mecq", {"b": np.ones(2, np.float32)})
    with pytest.raises(ArtifactError, match=r"format version 2.*up to 1.*upgrade mecq-jax"):
        storage.load(tmp_path / "a.mecq")


def test_load_refuses_levels_that_overflow(tmp_path):
    hard = tensor()
    object.__setattr__(hard, "levels", hard.levels + np.float32(1e6))
    object.__setattr__(hard, "dtype", "float16")
    storage.save(tmp_path / "a.mecq", {"w": hard})
    with pytest.raises(ArtifactError, match=r"'w' in .* is invalid: .*not finite in float16"):
        storage.load(tmp_path / "a.mecq")


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file(small, monkeypatch, step):
    path, tensors = small

    def fail(*args):
        raise OSError("disk on fire")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk on fire"):
        storage.save(path, {"other": np.zeros(1000, np.float32)})
    monkeypatch.undo()
    storage.verify(path, tensors)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_save_replaces_and_leaves_no_other_file(small):
    path, _ = small
    storage.save(str(path), {"other": np.zeros(3, np.float32)})
    assert list(storage.load(path)) == ["other"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_verify_names_the_first_difference(small):
    path, tensors = small
    hard = tensors["w"]
    other = QuantizedTensor(hard.codes[:, ::-1], hard.levels, hard.shape, hard.granularity)
    moved = QuantizedTensor(hard.codes, hard.levels + np.float32(1), hard.shape, hard.granularity)
    for changes, message in [
        ({"w": other}, "'w' differs.*codes differ"),
        ({"w": moved}, "'w' differs.*levels differ"),
        ({"w": QuantizedTensor(hard.codes, hard.levels, (3, 2), hard.granularity)}, "'w' differs.*records"),
        ({"w": hard.dense()}, "holds a QuantizedTensor, not a ndarray"),
        ({"b": np.ones(2, np.float32)}, "'b' differs.*bfloat16.*float32"),
        ({"b": np.zeros(2, jnp.bfloat16), "w": other}, "'b' differs.*values differ"),
        ({"c": np.ones(2, np.float32)}, "'c' is not in"),
    ]:
        with pytest.raises(ArtifactError, match=message):
            storage.verify(path, {**tensors, **changes})
    with pytest.raises(ArtifactError, match="'b' is only in"):
        storage.verify(path, {"w": hard})
