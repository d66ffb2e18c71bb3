"""Networks that compute with packed weights compute what dense ones do, in bounded memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mecq_jax import inference, nn, storage
from mecq_jax.granularity import PerBlock, PerChannel, PerTensor, group_shape
from mecq_jax.inference import _by_blocks
from mecq_jax.nn import quantize
from mecq_jax.params import Rule
from mecq_jax.quantizers import MEC
from mecq_jax.storage import QuantizedTensor, pack, unpack

pytestmark = pytest.mark.fast


def hard(rng, shape, k, granularity, dtype="float32"):
    g, n = group_shape(shape, granularity)
    levels = np.sort(rng.normal(size=(g, k)), axis=1).astype(np.float32)
    return QuantizedTensor(rng.integers(0, k, (g, n), dtype=np.uint8), levels, shape, granularity, dtype)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 7, 8, 65])
def test_codes_are_unpacked_in_jit_as_the_reader_does(bits, n, rng):
    codes = rng.integers(0, 2**bits, n, dtype=np.uint8)
    data = pack(codes, bits)
    found = jax.jit(inference.unpack, static_argnums=(1, 2))(jnp.asarray(data), bits, n)
    np.testing.assert_array_equal(found, codes)
    np.testing.assert_array_equal(found, unpack(data, bits, n))


@pytest.mark.parametrize(
    "granularity", [PerTensor(), PerChannel(-1), PerChannel(0), PerBlock(3, -1), PerBlock(7, 0)], ids=str
)
@pytest.mark.parametrize("k", [2, 3, 4, 6, 16])
def test_packed_tensors_are_dense_bit_for_bit(k, granularity, rng):
    for dtype in ("float32", "bfloat16"):
        tensor = hard(rng, (9, 7), k, granularity, dtype)
        found = jax.jit(lambda weights: inference.dense(weights)["w"])(inference.to_device({"w": tensor}))
        assert found.dtype == dtype
        np.testing.assert_array_equal(np.asarray(found), tensor.dense())


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(), PerChannel(0), PerBlock(5)], ids=str)
@pytest.mark.parametrize("k", [2, 4, 6, 16])
def test_products_by_blocks_are_products(k, granularity, rng, monkeypatch):
    monkeypatch.setattr(_by_blocks, "BLOCK", 200)
    for shape, contracted in (((45, 7), 1), ((5, 9, 3), 2), ((3, 5), 1), ((45, 2, 3), 1)):
        w = hard(rng, shape, k, granularity if shape != (3, 5) or granularity != PerBlock(5) else PerTensor())
        x = jnp.asarray(rng.normal(size=(2, 4, *shape[:contracted])), jnp.float32)
        forward = lambda arrays, x, c=contracted: jnp.tensordot(x, arrays["w"], c)  # noqa: E731
        y = jax.jit(inference.by_blocks(forward))(inference.to_device({"w": w}), x)
        expected = np.tensordot(np.asarray(x, np.float64), w.dense().astype(np.float64), contracted)
        np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel()], ids=str)
@pytest.mark.parametrize("k", [4, 8])
def test_memory_is_that_of_a_block(k, granularity, rng):
    weights = inference.to_device({f"w{i}": hard(rng, (2048, 2048), k, granularity) for i in range(2)})
    forward = lambda arrays, x: jax.nn.relu(x @ arrays["w0"]) @ arrays["w1"]  # noqa: E731
    compiled = jax.jit(inference.by_blocks(forward)).lower(weights, jnp.ones((1, 2048))).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 6 * 2**20 < 4 * 2048**2


class Net(nnx.Module):
    """A convolution, attention, whose kernels have three dimensions, and a head."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 12, (3, 3), rngs=rngs)
        self.attention = nnx.MultiHeadAttention(3, 12, decode=False, rngs=rngs)
        self.norm, self.head = nnx.BatchNorm(12, rngs=rngs), nnx.Linear(12, 5, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.conv(x)).reshape(len(x), -1, 12)
        return self.head((x + self.attention(x)).mean(axis=1))


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel()], ids=str)
def test_a_network_loads_and_answers(granularity, tmp_path, rng):
    model, _ = quantize(Net(nnx.Rngs(0)), [Rule("(conv|head)/kernel", MEC(k=8, granularity=granularity))])
    tensors, forward = nn.harden(model), nn.forward(model)
    tensors |= {f"attention/{n}/kernel": hard(rng, (12, 3, 4), 4, PerTensor()) for n in ("query", "key", "value")}
    storage.save(tmp_path / "m.safetensors", tensors)
    x = jnp.asarray(rng.normal(size=(3, 6, 6, 3)), jnp.float32)
    unpacked = inference.load(tmp_path / "m.safetensors", forward)
    stays = inference.load(tmp_path / "m.safetensors", forward, packed=True)
    expected = jax.jit(forward)(inference.dense(inference.to_device(tensors)), x)
    np.testing.assert_array_equal(unpacked(x), expected)
    np.testing.assert_allclose(stays(x), expected, atol=1e-5)
    kernels = [t for t in tensors.values() if isinstance(t, QuantizedTensor)]
    saved = sum(4 * t.codes.size - t.nbytes for t in kernels)
    assert len(kernels) == 5 and unpacked.nbytes - stays.nbytes == saved


def test_a_weight_that_is_returned_is_whole(rng):
    w = hard(rng, (6, 5), 4, PerTensor())
    out = inference.by_blocks(lambda arrays, x: {"w": arrays["w"], "twice": 2.0 * arrays["w"]})
    found = out(inference.to_device({"w": w}), jnp.zeros(()))
    np.testing.assert_array_equal(found["w"], w.dense())
    np.testing.assert_array_equal(found["twice"], 2 * w.dense())
