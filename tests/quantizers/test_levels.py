"""Where levels start."""

import jax.numpy as jnp
import numpy as np
import pytest

from mecq_jax import quantizers

pytestmark = pytest.mark.fast


def test_lloyd_max_reaches_the_gaussian_optimum(rng):
    """0.1175 and 0.0345 of the variance at 4 and 8 levels (Max, 1960)."""
    w = rng.normal(size=(1, 300_000)).astype(np.float32)
    for k, optimum in ((4, 0.1175), (8, 0.0345)):
        q = np.asarray(quantizers.lloyd_max(jnp.asarray(w), k))[0]
        error = np.mean(np.min(np.square(w[0][:, None] - q[None]), axis=1)) / w.var()
        np.testing.assert_allclose(error, optimum, rtol=0.02)


def test_quantile_levels_are_means_of_equal_cells(rng):
    w = rng.normal(size=(3, 120)).astype(np.float32)
    expected = np.sort(w, axis=1).reshape(3, 4, 30).mean(axis=2)
    np.testing.assert_allclose(quantizers.quantile(jnp.asarray(w), 4), expected, atol=1e-5)


@pytest.mark.parametrize("name", quantizers.CODEBOOKS)
def test_levels_ascend_and_follow_shift_and_scale(name, rng):
    ties = np.round(rng.normal(size=(1, 40)))
    cases = [rng.normal(size=(2, 50)), np.full((2, 9), 0.3), np.array([[0.1, 0.9]]), ties]
    for w in cases:
        w = jnp.asarray(w, jnp.float32)
        q = quantizers.initial_levels(w, 4, name)
        assert q.shape == (w.shape[0], 4) and bool((jnp.diff(q) >= 0).all())
        np.testing.assert_allclose(quantizers.initial_levels(0.5 * w + 1, 4, name), 0.5 * q + 1, atol=2e-5)


def test_bad_codebooks():
    with pytest.raises(ValueError, match="2 to 256"):
        quantizers.initial_levels(jnp.zeros((1, 4)), 1)
    with pytest.raises(ValueError, match="not one of"):
        quantizers.initial_levels(jnp.zeros((1, 4)), 4, "kmeans")
