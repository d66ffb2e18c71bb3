"""The Pallas product with packed weights: interpreted against NumPy, and lowered for both accelerators."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mecq_jax import experimental
from mecq_jax.granularity import PerBlock, PerChannel, PerTensor, group_shape
from mecq_jax.inference import PackedTensor
from mecq_jax.storage import QuantizedTensor
from mecq_reader import bits_for, packed_size

pytestmark = pytest.mark.fast
A, B = 300, 150  # neither whole tiles nor whole lanes


def hard(rng, k, granularity, shape=(A, B)):
    g, n = group_shape(shape, granularity)
    codes = rng.integers(0, k, (g, n), dtype=np.uint8)
    return QuantizedTensor(codes, rng.standard_normal((g, k), np.float32), shape, granularity)


def product(x, tensor):
    """x W in float64, W rounded to x's dtype."""
    w = np.asarray(jnp.asarray(tensor.dense()).astype(x.dtype), np.float64)
    return np.asarray(x, np.float64) @ w


def close(y, expected, terms=A):
    """Equal to float32's rounding of a sum of that many terms."""
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, atol=2**-24 * terms * abs(expected).max())


@pytest.mark.parametrize(
    "platform, k, m, per_channel, dtype",
    [
        ("gpu", 2, 1, False, "float32"),
        ("gpu", 2, 16, True, "bfloat16"),
        ("gpu", 3, 3, True, "bfloat16"),
        ("gpu", 3, 33, False, "float32"),
        ("gpu", 4, 1, True, "bfloat16"),
        ("gpu", 4, 16, False, "float32"),
        ("gpu", 5, 1, False, "float32"),
        ("gpu", 6, 3, True, "float32"),
        ("gpu", 8, 33, True, "float32"),
        ("gpu", 16, 1, True, "float32"),
        ("tpu", 1, 1, True, "float32"),
        ("tpu", 4, 3, False, "float32"),
        ("tpu", 8, 1, True, "bfloat16"),
    ],
)
def test_product_is_numpys(rng, platform, k, m, per_channel, dtype):
    tensor = hard(rng, k, PerChannel() if per_channel else PerTensor())
    x = jnp.asarray(rng.standard_normal((m, A)), dtype)
    y = experimental.packed_matmul(
        x, experimental.arrange(tensor, platform=platform), platform=platform, interpret=True
    )
    close(y, product(x, tensor))


@pytest.mark.parametrize("columns, splits", [(None, 1), (32, 4)])
def test_any_cut_gives_the_product(rng, columns, splits):
    tensor = hard(rng, 4, PerChannel(1), (900, 20))
    x = jnp.asarray(rng.standard_normal((2, 900)), jnp.float32)
    arranged = experimental.arrange(PackedTensor.of(tensor))
    close(
        experimental.packed_matmul(x, arranged, interpret=True, columns=columns, splits=splits), product(x, tensor), 900
    )


@pytest.mark.parametrize("k", [2, 4, 8, 16])
def test_bits_in_memory_are_the_codes(rng, k):
    bits = bits_for(k)
    arranged = experimental.arrange(hard(rng, k, PerTensor(), (512, 128)))
    assert arranged.nbytes == 512 * 128 * bits / 8 + 4 * k
    padded = experimental.arrange(hard(rng, k, PerTensor(), (500, 100)))
    assert padded.nbytes == arranged.nbytes


@pytest.mark.parametrize("chunk", [16, 64])
def test_layout_is_the_documented_one(rng, chunk):
    tensor = hard(rng, 8, PerTensor())
    low, high = (np.asarray(p).view(np.uint32) for p in experimental.arrange(tensor, chunk=chunk).planes)
    codes = tensor.codes.reshape(A, B)
    for row, column in ((0, 0), (17, 3), (211, 149), (299, 70)):
        tile, within = divmod(row, 32 * chunk)
        j, i = divmod(within, 2 * chunk)
        assert low[tile * 2 * chunk + i, column] >> np.uint32(2 * j) & 3 == codes[row, column] & 3
        j, i = divmod(within, chunk)
        assert high[tile * chunk + i, column] >> np.uint32(j) & 1 == codes[row, column] >> 2


@pytest.mark.parametrize("platform, lowering", [("tpu", "tpu"), ("gpu", "cuda")])
@pytest.mark.parametrize("k", [4, 8])
@pytest.mark.parametrize("m", [1, 16])
@pytest.mark.parametrize("dtype, granularity", [("float32", PerChannel()), ("bfloat16", PerTensor())])
def test_lowers_for_the_accelerators(platform, lowering, k, m, dtype, granularity):
    size = 4096
    g, n = group_shape((size, size), granularity)
    bits = bits_for(k)
    data = jax.ShapeDtypeStruct((packed_size(g * n, bits),), jnp.uint8)
    levels = jax.ShapeDtypeStruct((g, k), jnp.float32)
    packed = PackedTensor(data, levels, (size, size), granularity, "float32")
    arranged = jax.eval_shape(partial(experimental.arrange, platform=platform), packed)
    x = jax.ShapeDtypeStruct((m, size), dtype)
    traced = jax.jit(partial(experimental.packed_matmul, platform=platform)).trace(x, arranged)
    try:
        lowered = traced.lower(lowering_platforms=(lowering,))
    except ModuleNotFoundError as error:  # newer versions of jaxlib lower Triton's part by a package of their GPU extra
        if (error.name or "").split(".")[0] != "triton":
            raise
        pytest.skip(str(error))
    assert "custom_call" in lowered.as_text()


def test_misuse_is_named(rng):
    arranged = experimental.arrange(hard(rng, 4, PerTensor()))
    x = jnp.zeros((2, A), jnp.float32)
    with pytest.raises(ValueError, match=r"not cpu; use x @ tensor\.dense"):
        experimental.packed_matmul(x, arranged)
    with pytest.raises(ValueError, match=r"shape \(2, 299\) does not fit"):
        experimental.packed_matmul(x[:, 1:], arranged, interpret=True)
    with pytest.raises(ValueError, match="cast it to float32 or bfloat16"):
        experimental.packed_matmul(x.astype(jnp.float16), arranged, interpret=True)
    with pytest.raises(ValueError, match="7 splits do not divide the 2 tiles"):
        experimental.packed_matmul(x, arranged, interpret=True, splits=7)
    with pytest.raises(ValueError, match="48 columns are no power of two"):
        experimental.packed_matmul(x, arranged, interpret=True, columns=48)
    with pytest.raises(ValueError, match="channel of the last axis"):
        experimental.arrange(hard(rng, 4, PerChannel(0)))
    with pytest.raises(ValueError, match=r"not block\(50, -1\)"):
        experimental.arrange(hard(rng, 4, PerBlock(50)))
    with pytest.raises(ValueError, match="is no matrix"):
        experimental.arrange(hard(rng, 4, PerTensor(), (3, 3, 4, 5)))
    with pytest.raises(ValueError, match="chunk of 24 rows is no power of two"):
        experimental.arrange(hard(rng, 4, PerTensor()), chunk=24)
