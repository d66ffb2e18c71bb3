"""Packed codes to the bit, and the validation of quantized tensors."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mecq_jax.granularity import PerBlock, PerChannel, PerTensor
from mecq_jax.storage import QuantizedTensor, pack
from mecq_reader import bits_for, packed_size, unpack

pytestmark = pytest.mark.fast


def u8(*values):
    return np.array(values, np.uint8)


def slow_pack(codes, bits):
    """The layout's definition on one big integer per plane."""

    def plane(values, width):
        number = sum(int(v) << (i * width) for i, v in enumerate(values))
        return number.to_bytes((len(values) * width + 7) // 8, "little")

    if bits == 3:
        return plane([c & 3 for c in codes], 2) + plane([c >> 2 for c in codes], 1)
    return plane(codes, bits)


@st.composite
def coded(draw):
    bits = draw(st.integers(1, 4))
    return bits, draw(st.lists(st.integers(0, 2**bits - 1), max_size=200))


@settings(max_examples=300, deadline=None)
@given(coded())
def test_round_trip_matches_the_slow_reference(case):
    bits, codes = case
    codes = np.array(codes, np.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == np.uint8 and packed.tobytes() == slow_pack(codes.tolist(), bits)
    assert packed.size == packed_size(codes.size, bits)
    back = unpack(packed, bits, codes.size)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, codes)


@pytest.mark.parametrize(
    ("bits", "codes", "expected"),
    [
        (1, [1, 0, 0, 0, 0, 0, 0, 0], [0b00000001]),
        (1, [0, 1, 0, 0, 0, 0, 0, 1, 1], [0b10000010, 0b00000001]),
        (2, [3, 0, 1, 2], [0b10010011]),
        (2, [1, 2, 3, 0, 2], [0b00111001, 0b00000010]),
        (4, [0xA, 0x5, 0xF], [0x5A, 0x0F]),
        (3, [7], [0b00000011, 0b00000001]),
        (3, [4, 1, 2, 7, 5], [0b11100100, 0b00000001, 0b00011001]),
        (3, [0, 1, 2, 3, 4, 5, 6, 7], [0b11100100, 0b11100100, 0b11110000]),
        (2, [], []),
        (3, [], []),
    ],
)
def test_layout_by_hand(bits, codes, expected):
    assert pack(u8(*codes), bits).tolist() == expected
    assert unpack(u8(*expected), bits, len(codes)).tolist() == codes


@pytest.mark.parametrize(
    ("k", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3), (7, 3), (8, 3), (9, 4), (15, 4), (16, 4)]
)
def test_bits_for(k, bits):
    assert bits_for(k) == bits


@pytest.mark.parametrize("k", [0, -1, 17])
def test_bits_for_names_the_bound(k):
    with pytest.raises(ValueError, match=rf"{k} levels.*1 to 16"):
        bits_for(k)


@pytest.mark.parametrize(
    ("n", "bits", "size"), [(0, 3, 0), (1, 3, 2), (8, 3, 3), (9, 3, 5), (9, 1, 2), (9, 2, 3), (9, 4, 5)]
)
def test_packed_size(n, bits, size):
    assert packed_size(n, bits) == size


def test_packed_size_bounds():
    with pytest.raises(ValueError, match=r"5 bits.*use 1, 2, 3 or 4"):
        packed_size(3, 5)
    with pytest.raises(ValueError, match="-1 codes"):
        packed_size(-1, 2)


def test_ternary_takes_two_bits():
    assert pack(u8(0, 1, 2, 2), bits_for(3)).tolist() == [0b10100100]


def test_pack_takes_any_shape_in_c_order():
    codes = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(pack(codes.T, 3), pack(u8(0, 3, 1, 4, 2, 5), 3))
    np.testing.assert_array_equal(pack(jnp.asarray(codes), 4), u8(0x10, 0x32, 0x54))
    np.testing.assert_array_equal(pack(np.array(1, np.uint8), 1), u8(1))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_pack_names_a_code_too_large(bits):
    codes = np.zeros((2, 5), np.uint8)
    codes[1, 3] = 2**bits
    with pytest.raises(ValueError, match=rf"code {2**bits} at index \(1, 3\).*below {2**bits}"):
        pack(codes, bits)


def test_pack_refuses_other_bits_and_dtypes():
    for bits in (0, 5, 8, -1):
        with pytest.raises(ValueError, match=f"codes of {bits} bits"):
            pack(u8(0), bits)
    with pytest.raises(ValueError, match="must be uint8, not int64"):
        pack(np.zeros(3, np.int64), 2)


def test_unpack_refuses_sizes_and_pad_bits():
    with pytest.raises(ValueError, match=r"9 codes of 2 bits are uint8 \[3\], not uint8 \[2\]"):
        unpack(u8(0, 0), 2, 9)
    with pytest.raises(ValueError, match="not int8"):
        unpack(np.zeros(3, np.int8), 2, 9)
    with pytest.raises(ValueError, match="pad bits"):
        unpack(u8(0, 0b10), 1, 9)
    with pytest.raises(ValueError, match="pad bits"):
        unpack(u8(0, 0b10), 3, 1)


def hard(**changes):
    fields = {
        "codes": np.zeros((3, 4), np.uint8),
        "levels": np.array([[-1.0, 1.0]] * 3, np.float32),
        "shape": (4, 3),
        "granularity": PerChannel(),
    }
    return QuantizedTensor(**{**fields, **changes})


def test_quantized_tensor_size_and_bits():
    assert (hard().bits, hard().nbytes) == (1, 2 + 24)
    assert hard(levels=np.zeros((3, 5), np.float32)).bits == 3


def test_quantized_tensor_accepts_jax_arrays_and_is_frozen():
    tensor = hard(codes=jnp.zeros((3, 4), jnp.uint8), levels=jnp.ones((3, 2), jnp.float32))
    assert type(tensor.codes) is np.ndarray and type(tensor.levels) is np.ndarray
    with pytest.raises(AttributeError):
        tensor.dtype = "float16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": np.zeros((4, 3), np.uint8)}, r"must be uint8 \(3, 4\), not uint8 \(4, 3\)"),
        ({"codes": np.zeros((3, 4), np.int8)}, "not int8"),
        ({"codes": np.full((3, 4), 2, np.uint8)}, "code 2 of weight 0 in group 0 must be below the 2 levels"),
        ({"levels": np.zeros((2, 2), np.float32)}, r"float32 \[3, k\]"),
        ({"levels": np.zeros((3, 2), np.float64)}, "not float64"),
        ({"levels": np.zeros((3, 17), np.float32)}, "17 levels"),
        ({"levels": np.array([[0, 1], [0, np.nan], [0, 1]], np.float32)}, "level 1 of group 1 is nan"),
        ({"levels": np.full((3, 2), 1e6, np.float32), "dtype": "float16"}, "not finite in float16"),
        ({"dtype": "int8"}, "dtype 'int8' is not one of"),
        ({"granularity": PerBlock(3)}, "does not divide"),
        ({"granularity": PerChannel(2)}, "axis 2"),
        ({"shape": (4, 0)}, "holds no weights"),
    ],
)
def test_quantized_tensor_validation(changes, message):
    with pytest.raises(ValueError, match=message):
        hard(**changes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dense_has_the_tensors_dtype(dtype):
    levels = np.array([[0.1, -0.3, 7.7]], np.float32)
    codes = np.array([[0, 1, 2, 1, 0, 2]], np.uint8)
    dense = hard(codes=codes, levels=levels, shape=(2, 3), granularity=PerTensor(), dtype=dtype).dense()
    assert dense.dtype == jnp.dtype(dtype)
    expected = np.array([[0.1, -0.3, 7.7], [-0.3, 0.1, 7.7]], np.float32).astype(jnp.dtype(dtype))
    assert dense.tobytes() == expected.tobytes()


def test_scalar_tensor():
    levels = np.array([[2, 3]], np.float32)
    tensor = hard(codes=u8(1).reshape(1, 1), levels=levels, shape=(), granularity=PerTensor())
    assert tensor.dense().shape == () and tensor.dense() == 3
