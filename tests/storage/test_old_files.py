"""Files of format 1 that the code of commit a56bf98 wrote: they open, decode to the same bits and save again the same.

tests/data/README.md says how they were made. What they must decode to lies beside each as .npz, computed without any of
the library's readers: NAME as the NumPy-only reader gives it, and where NumPy lacks a dtype also NAME:bfloat16, the 16
bits; of quantized tensors NAME:codes and NAME:levels too.
"""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import mecq_reader
from mecq_jax import storage
from mecq_jax.storage import QuantizedTensor

pytestmark = pytest.mark.fast

FILES = sorted((Path(__file__).resolve().parents[1] / "data").glob("format1_*.safetensors"))
files = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def expectation(path):
    """{name: array} of the file's tensors, and {name:part: array} of what belongs to them."""
    with np.load(path.with_suffix(".npz")) as archive:
        arrays = {name: archive[name] for name in archive.files}
    parts = {name: arrays.pop(name) for name in list(arrays) if ":" in name}
    return arrays, parts


def assert_same(found, expected, name):
    """The same dtype, shape and bits; NaNs have payloads."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
    assert found.tobytes() == expected.tobytes(), name


def dense(value):
    return value if isinstance(value, np.ndarray) else value.dense()


def test_the_files_are_there():
    names = {path.stem.removeprefix("format1_") for path in FILES}
    assert names == {"bits1", "bits2", "bits3", "bits4", "plain", "run", "nnx"}
    kept = {}
    for path in FILES:
        for record in mecq_reader.read_spec(path)["tensors"].values():
            kept.setdefault(record["bits"], set()).add((record["granularity"]["kind"], record["dtype"], record["k"]))
    assert set(kept) == {1, 2, 3, 4}
    for own in kept.values():
        assert {kind for kind, _, _ in own} == {"PerTensor", "PerChannel", "PerBlock"}
        assert {dtype for _, dtype, _ in own} >= {"float32", "bfloat16", "float16"}
    assert {k for own in kept.values() for *_, k in own} == {1, 2, 3, 4, 5, 8, 9, 16}


@files
def test_the_numpy_reader_gives_the_same_bits(path):
    arrays, _ = expectation(path)
    read = mecq_reader.read_dense(path)
    assert set(read) == set(arrays)
    for name, expected in arrays.items():
        assert_same(read[name], expected, name)


@files
def test_storage_gives_the_same_bits(path):
    arrays, parts = expectation(path)
    loaded = storage.load(path)
    assert set(loaded) == set(arrays)
    for name, expected in arrays.items():
        value = dense(loaded[name])
        if f"{name}:bfloat16" in parts:
            assert value.dtype == jnp.bfloat16
            value, expected = value.view(np.uint16), parts[f"{name}:bfloat16"]
        assert_same(value, expected, name)


@files
def test_codes_and_levels_are_the_same(path):
    _, parts = expectation(path)
    both = (storage.load(path), mecq_reader.read(path))
    for name, expected in parts.items():
        owner, _, part = name.rpartition(":")
        for tensors in both if part in ("codes", "levels") else ():
            assert_same(getattr(tensors[owner], part), expected, name)
    quantized = {name for name, value in both[0].items() if isinstance(value, QuantizedTensor)}
    assert quantized == set(mecq_reader.read_spec(path)["tensors"])


@files
def test_verify_passes_and_sees_a_change(path):
    arrays, parts = expectation(path)
    tensors = storage.load(path)
    for name, value in tensors.items():  # what the expectation says, in the place of what was read
        if f"{name}:codes" in parts:
            tensors[name] = dataclasses.replace(value, codes=parts[f"{name}:codes"], levels=parts[f"{name}:levels"])
        elif isinstance(value, np.ndarray):
            bits = parts.get(f"{name}:bfloat16")
            tensors[name] = arrays[name] if bits is None else bits.view(jnp.bfloat16)
    storage.verify(path, tensors)
    name, value = next((n, v) for n, v in tensors.items() if isinstance(v, QuantizedTensor) and v.levels.shape[1] > 1)
    codes = value.codes.copy()
    codes.flat[0] = (codes.flat[0] + 1) % value.levels.shape[1]
    with pytest.raises(storage.ArtifactError, match=name):
        storage.verify(path, tensors | {name: dataclasses.replace(value, codes=codes)})


@files
def test_saved_again_it_is_the_same(path, tmp_path):
    spec, stored = mecq_reader.read_raw(path)
    again = tmp_path / "again.safetensors"
    storage.save(again, storage.load(path), extra=spec["extra"])
    spec_again, stored_again = mecq_reader.read_raw(again)
    assert stored_again == stored  # dtype, shape and bytes of all that is stored
    assert {key: spec_again[key] for key in ("version", "tensors", "extra")} == {
        key: spec[key] for key in ("version", "tensors", "extra")
    }


def test_extra_comes_back():
    by_name = {path.stem: mecq_reader.read_spec(path)["extra"] for path in FILES}
    assert by_name["format1_bits1"] == {}
    assert by_name["format1_nnx"] == {"by": "layers.harden"}
    assert by_name["format1_plain"]["nested"] == [{"deep": [True, 1e-9, 2**53 + 1]}]
    assert by_name["format1_plain"]["naïve"] == "漢"
    assert by_name["format1_run"]["config"]["model"] == "cnn"


def test_names_of_a_run_and_of_an_nnx_model():
    run = set(storage.load(next(path for path in FILES if path.stem == "format1_run")))
    assert {name.split("/")[0] for name in run} == {"params", "state"}
    nnx = set(storage.load(next(path for path in FILES if path.stem == "format1_nnx")))
    assert nnx == {
        "stem/kernel", "stem/bias", "blocks/0/kernel", "blocks/0/bias", "blocks/1/kernel", "blocks/1/bias",
        "norm/scale", "norm/bias", "norm/mean", "norm/var", "hidden/kernel", "hidden/bias", "head/kernel", "head/bias",
    }  # fmt: skip
