"""StableHLO files compute what JAX computes, bit for bit, where there is jax alone."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mecq_jax import export, inference
from mecq_jax.granularity import PerChannel, PerTensor, group_shape
from mecq_jax.storage import QuantizedTensor

pytestmark = pytest.mark.fast


def hard(rng, shape=(9, 7), k=4, granularity=PerTensor(), dtype="float32"):  # noqa: B008 (a frozen value)
    g, n = group_shape(shape, granularity)
    codes, levels = rng.integers(0, k, (g, n), dtype=np.uint8), np.sort(rng.normal(size=(g, k)), axis=1)
    return QuantizedTensor(codes, levels.astype(np.float32), shape, granularity, dtype)


def test_stablehlo_is_the_same_bit_for_bit_where_jax_is_alone(tmp_path, rng):
    tensors = {"w": hard(rng, shape=(64, 256)), "v": hard(rng, shape=(256, 10), k=8, granularity=PerChannel())}

    def forward(arrays, x):
        return jax.nn.relu(x @ arrays["w"]) @ arrays["v"]

    x = rng.normal(size=(6, 64)).astype(np.float32)
    size = export.stablehlo(tmp_path / "m.stablehlo", forward, tensors, x)
    assert size < 3 * (64 * 256 * 2 + 256 * 10 * 3) / 8 + 8000, "the weights are packed"
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys, numpy as np; from jax import export;"
        "call = export.deserialize(bytearray(open('m.stablehlo', 'rb').read())).call;"
        "np.save('y.npy', call(np.load('x.npy')));"
        "sys.exit('mecq_jax' in sys.modules or 'flax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    expected = jax.jit(lambda x: forward(inference.dense(inference.to_device(tensors)), x))(jnp.asarray(x))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
