"""What a quantizer is made from: k or bits, names, and the misuse that is refused."""

import copy
import dataclasses
import pickle

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from mecq_jax.granularity import PerChannel
from mecq_jax.quantizers import MEC, QUANTIZERS, GroupedQuantizer, Quantizer, get_quantizer
from mecq_jax.quantizers.baselines import DKM, LSQ, SLB

pytestmark = pytest.mark.fast
EVERY = pytest.mark.parametrize("name", QUANTIZERS)


@pytest.fixture
def as_installed(monkeypatch):
    """Without the suite's check of signatures, which would refuse wrong types before the library does."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@EVERY
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_bits_are_as_good_as_k(name, bits):
    by_bits, by_k = get_quantizer(name, bits=bits), get_quantizer(name, k=2**bits)
    assert by_bits == by_k and hash(by_bits) == hash(by_k) and repr(by_bits) == repr(by_k)
    assert (by_bits.k, by_bits.bits, by_k.bits) == (2**bits, bits, bits)
    assert type(by_bits.k) is int and isinstance(by_bits.bits, int)
    assert by_bits == get_quantizer(name, k=2**bits, bits=bits)
    assert by_bits != get_quantizer(name, bits=bits % 4 + 1)


@EVERY
def test_two_bits_are_the_default(name, as_installed):
    assert get_quantizer(name) == get_quantizer(name, bits=2) == get_quantizer(name, k=np.int64(4))
    assert get_quantizer(name, bits=np.uint8(2)) == get_quantizer(name, k=None, bits=None)


@EVERY
def test_replace_changes_k_and_keeps_the_rest(name):
    quantizer = get_quantizer(name, bits=2, granularity=PerChannel())
    assert dataclasses.replace(quantizer) == quantizer
    changed = dataclasses.replace(quantizer, k=8)
    assert changed == get_quantizer(name, k=8, granularity=PerChannel()) and changed.bits == 3
    assert dataclasses.replace(quantizer, granularity=get_quantizer(name).granularity) == get_quantizer(name)
    with pytest.raises(ValueError, match=r"k = 4 with bits = 3, which are 8 levels.*replace` takes k"):
        dataclasses.replace(quantizer, bits=3)


@EVERY
def test_copies_are_equal(name):
    quantizer = get_quantizer(name, bits=1)
    fields = {field.name: getattr(quantizer, field.name) for field in dataclasses.fields(quantizer)}
    for other in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer)), type(quantizer)(**fields)):
        assert other == quantizer and dataclasses.replace(other, k=4).bits == 2


def test_bits_of_levels_that_are_no_power_of_two():
    """The width of a code: three levels take two bits, and k is what `replace` keeps."""
    assert [MEC(k=k).bits for k in (2, 3, 4, 5, 8, 9, 16)] == [1, 2, 2, 3, 3, 4, 4]
    assert dataclasses.replace(MEC(k=3), balance=0.5).k == 3
    assert MEC(bits=LSQ(k=8).bits).k == 8


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bits": 2.5}, TypeError, r"bits = 2\.5 is a float, not an integer.*1, 2, 3 or 4"),
        ({"bits": 2.0}, TypeError, r"bits = 2\.0 is a float"),
        ({"bits": "2"}, TypeError, "bits = '2' is a str.*1, 2, 3 or 4"),
        ({"bits": True}, TypeError, "bits = True is a bool"),
        ({"bits": 0}, ValueError, "bits = 0: packing holds 1, 2, 3 or 4"),
        ({"bits": 5}, ValueError, "bits = 5: packing holds 1, 2, 3 or 4"),
        ({"k": 2.0}, TypeError, r"k = 2\.0 is a float, not an integer.*2 to 16"),
        ({"k": "4"}, TypeError, "k = '4' is a str.*2 to 16"),
        ({"k": True}, TypeError, "k = True is a bool"),
        ({"k": 0}, ValueError, "k = 0: packing holds 2 to 16"),
        ({"k": 1}, ValueError, "k = 1: packing holds 2 to 16"),
        ({"k": 17}, ValueError, "k = 17: packing holds 2 to 16"),
        ({"k": 2, "bits": 2}, ValueError, "k = 2 with bits = 2, which are 4 levels: give one of the two"),
        ({"k": 3, "bits": 2}, ValueError, "k = 3 with bits = 2, which are 4 levels: give one of the two"),
        ({"k": 0, "bits": 2}, ValueError, "k = 0: packing holds 2 to 16"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_what_packing_cannot_hold_is_refused(options, error, message, as_installed):
    for name in QUANTIZERS:
        with pytest.raises(error, match=message):
            get_quantizer(name, **options)


@EVERY
def test_registered_quantizers_keep_the_interface(name):
    quantizer = get_quantizer(name)
    assert isinstance(quantizer, Quantizer) and isinstance(quantizer, GroupedQuantizer)


@pytest.mark.parametrize("name", ["mec", "mec_hard_forward", "softmax", "parq", "slb", "dkm"])
def test_what_needs_a_temperature_says_so(name):
    quantizer, w = get_quantizer(name), jnp.linspace(-1, 1, 12, dtype=jnp.float32).reshape(3, 4)
    with pytest.raises(TypeError, match=f"{type(quantizer).__name__} needs one above 0"):
        quantizer.apply(w, *quantizer.init(w))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: get_quantizer("round"), "'round' is not one of"),
        (lambda: get_quantizer("apot", k=3), "k = 3"),
        (lambda: get_quantizer("parq", k=6), "k = 6"),
        (lambda: MEC(prior=[1.0, 1.0, 1.0, 1.0]), "sums to"),
        (lambda: MEC(prior="quantile"), "not one of"),
        (lambda: MEC(solver="simplex"), "not one of"),
        (lambda: MEC(gradient="ste"), "not one of"),
        (lambda: MEC(balance=1.5), "balance = 1.5"),
        (lambda: DKM(iterations=0), "iterations = 0"),
        (lambda: SLB(codebook="even").init(jnp.ones((2, 2), jnp.float32)), "'even' is not one of"),
    ],
)
def test_misuse_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
