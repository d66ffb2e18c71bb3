"""Each baseline against its paper's equations in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from mecq_jax import quantizers
from mecq_jax.quantizers.baselines import additive_powers_of_two

WEIGHTS = np.random.default_rng(3).normal(size=(40, 15)) * 0.2
COTANGENT = np.random.default_rng(4).normal(size=WEIGHTS.shape)


def applied(name, temperature=0.1, **options):
    """(quantizer, params, state, value, gradient in w, gradient in params) of one application, as float64 arrays."""
    quantizer = quantizers.get_quantizer(name, **options)
    w, c = jnp.asarray(WEIGHTS, jnp.float32), jnp.asarray(COTANGENT, jnp.float32)
    params, state = quantizer.init(w)

    def loss(w, params):
        value, state_, _ = quantizer.apply(w, params, state, temperature)
        return jnp.vdot(c, value), (value, state_)

    (_, (value, state)), grads = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(w, params)
    gradients = jax.tree.map(lambda x: np.asarray(x, np.float64), grads)
    return quantizer, params, state, np.asarray(value, np.float64), *gradients


def nearest(w, q):
    return q[np.abs(w[..., None] - q).argmin(axis=-1)]


@pytest.mark.fast
@pytest.mark.parametrize("k", [4, 8])
def test_dorefa(k):
    _, _, state, value, d_w, _ = applied("dorefa", k=k)
    squashed = np.tanh(WEIGHTS)
    x = squashed / (2 * np.abs(squashed).max()) + 0.5
    levels = 2 * np.round((k - 1) * x) / (k - 1) - 1
    scale = (WEIGHTS * levels).sum() / (levels**2).sum()
    np.testing.assert_allclose(float(state["scale"][0]), scale, rtol=1e-5)
    np.testing.assert_allclose(value, scale * levels, atol=1e-6)
    inner = np.abs(WEIGHTS) < np.abs(WEIGHTS).max()  # the largest also moves the maximum
    slope = scale * (1 - squashed**2) / np.abs(squashed).max()
    np.testing.assert_allclose(d_w[inner], (COTANGENT * slope)[inner], rtol=1e-4)


@pytest.mark.fast
def test_dorefa_at_one_bit_is_the_scaled_sign():
    _, _, _, value, d_w, _ = applied("dorefa", k=2)
    np.testing.assert_allclose(value, np.abs(WEIGHTS).mean() * np.sign(WEIGHTS), rtol=1e-5)
    np.testing.assert_allclose(d_w, COTANGENT, rtol=1e-6)


@pytest.mark.parametrize("k,bound", [(2, 1), (4, 3)])
def test_ewgs(k, bound):
    _, params, _, value, d_w, d_params = applied("ewgs", k=k, delta=0.5)
    lower, upper, scale = (float(params[name][0]) for name in ("lower", "upper", "scale"))
    np.testing.assert_allclose([lower, upper], [-bound * WEIGHTS.std(), bound * WEIGHTS.std()], rtol=1e-5)
    x = np.clip((WEIGHTS - lower) / (upper - lower), 0, 1)
    rounded = np.round((k - 1) * x) / (k - 1)
    np.testing.assert_allclose(value, scale * (2 * rounded - 1), atol=1e-6)
    # The cotangent that reaches the rounded number, scaled element by element (the paper's equation 3).
    arrived = COTANGENT * scale * 2
    scaled = arrived * (1 + 0.5 * np.sign(arrived) * (x - rounded))
    inside = (x > 0) & (x < 1)
    np.testing.assert_allclose(d_w, np.where(inside, scaled / (upper - lower), 0), atol=1e-4)
    np.testing.assert_allclose(d_params["scale"][0], (COTANGENT * (2 * rounded - 1)).sum(), rtol=1e-4)
    d_upper = np.where(inside, -scaled * x / (upper - lower), 0).sum()
    np.testing.assert_allclose(d_params["upper"][0], d_upper, rtol=1e-3)


def test_apot():
    np.testing.assert_allclose(additive_powers_of_two(8), [0, 1 / 4, 1 / 2, 1])
    sums = {a + b for a in (0, 1 / 2, 1 / 4, 1 / 16) for b in (0, 1 / 8)}
    np.testing.assert_allclose(additive_powers_of_two(16), np.array(sorted(sums)) / max(sums))
    for k in (4, 8, 16):
        _, params, _, value, d_w, d_params = applied("apot", k=k)
        clip = float(params["clip"][0])
        x = (WEIGHTS - WEIGHTS.mean()) / WEIGHTS.std()
        shape = np.unique(np.concatenate([-additive_powers_of_two(k), additive_powers_of_two(k)]))
        assert len(shape) == k - 1
        hard = nearest(np.clip(x / clip, -1, 1), shape)
        np.testing.assert_allclose(value, WEIGHTS.std() * clip * hard, atol=1e-5)
        inside = np.abs(x) <= clip
        d_clip = COTANGENT * np.where(inside, hard - x / clip, np.sign(x))
        np.testing.assert_allclose(d_params["clip"][0], WEIGHTS.std() * d_clip.sum(), rtol=1e-3)
        np.testing.assert_allclose(d_w, COTANGENT, rtol=1e-4)


def test_apot_at_one_bit_is_the_sign():
    _, params, _, value, _, _ = applied("apot", k=2)
    x = WEIGHTS - WEIGHTS.mean()
    np.testing.assert_allclose(value, WEIGHTS.std() * float(params["clip"][0]) * np.sign(x), rtol=1e-5)


@pytest.mark.fast
def test_ste():
    for k in (2, 4):
        _, _, _, value, d_w, _ = applied("ste", k=k)
        bound = np.abs(WEIGHTS).max()
        levels = bound * (2 * np.arange(k) + 1 - k) / k
        np.testing.assert_allclose(value, nearest(WEIGHTS, levels), atol=1e-6)
        np.testing.assert_allclose(d_w, COTANGENT, rtol=1e-6)


@pytest.mark.fast
@pytest.mark.parametrize("k", [2, 4, 8])
def test_lsq(k):
    """Value and weight's gradient; the step's gradient is in tests/quantizers/test_battery.py."""
    _, params, _, value, d_w, _ = applied("lsq", k=k)
    step, highest = float(params["step"][0]), max(k - 1 - k // 2, 1)
    np.testing.assert_allclose(step, 2 * np.abs(WEIGHTS).mean() / np.sqrt(highest), rtol=1e-5)
    levels = step * (np.array([-0.5, 0.5]) if k == 2 else np.arange(k) - k // 2)
    np.testing.assert_allclose(value, nearest(WEIGHTS, levels), atol=1e-6)
    inside = (levels[0] <= WEIGHTS) & (levels[-1] >= WEIGHTS)
    np.testing.assert_allclose(d_w, np.where(inside, COTANGENT, 0), atol=1e-5)


@pytest.mark.parametrize("k", [2, 3, 4, 16])
def test_balanced(k):
    quantizer, params, state, value, d_w, d_params = applied("balanced", k=k)
    rank = WEIGHTS.ravel().argsort().argsort().reshape(WEIGHTS.shape)
    codes = k * rank // WEIGHTS.size
    levels = np.asarray(params["levels"][0], float)
    np.testing.assert_array_equal(
        np.asarray(quantizer.codes(jnp.asarray(WEIGHTS, jnp.float32), params, state))[0], codes.ravel()
    )
    np.testing.assert_allclose(value, levels[codes], rtol=1e-6)
    np.testing.assert_allclose(d_w, COTANGENT, rtol=1e-5)
    np.testing.assert_allclose(d_params["levels"][0], [COTANGENT[codes == j].sum() for j in range(k)], atol=1e-4)


@pytest.mark.parametrize("bits", [1, 2])
def test_least_squares_binary_levels_reach_the_optimum(bits):
    w = WEIGHTS.ravel()
    quantizer = quantizers.get_quantizer("parq", k=2**bits)
    got = np.asarray(quantizer.init(jnp.asarray(WEIGHTS, jnp.float32))[1]["levels"][0], float)

    def error(a):
        signs = np.array([[1 if j >> i & 1 else -1 for i in range(bits)] for j in range(2**bits)])
        return np.square(w - nearest(w, signs @ a)).mean()

    starts = [np.array(a) for a in ([0.1, 0.05], [0.2, 0.1], [0.3, 0.1])]
    best = min(minimize(error, a[:bits], method="Nelder-Mead").fun for a in starts)
    assert np.square(w - nearest(w, got)).mean() <= best * 1.002
    np.testing.assert_allclose(got, -got[::-1], atol=1e-6)


@pytest.mark.parametrize("inverse", [1.0, 0.4, 1e-4])
def test_parq(inverse):
    _, _, state, value, d_w, _ = applied("parq", temperature=inverse, k=4)
    q = np.asarray(state["levels"][0], float)
    cell = np.clip(np.searchsorted(q, WEIGHTS) - 1, 0, 2)
    middle = (q[cell] + q[cell + 1]) / 2
    expected = np.clip(middle + (WEIGHTS - middle) / inverse, q[cell], q[cell + 1])
    np.testing.assert_allclose(value, expected, atol=1e-5 if inverse > 0.1 else 1e-3)
    np.testing.assert_allclose(d_w, COTANGENT, rtol=1e-5)
    if inverse == 1.0:
        np.testing.assert_allclose(value, np.clip(WEIGHTS, q[0], q[-1]), atol=1e-6)
    if inverse < 1e-3:
        np.testing.assert_allclose(value, nearest(WEIGHTS, q), atol=1e-3)


def test_slb():
    _, params, state, value, d_w, d_params = applied("slb", temperature=0.2, k=4)
    q, a = np.asarray(state["levels"][0], float), np.asarray(params["logits"][0], float)
    p = np.exp(a / 0.2 - (a / 0.2).max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(value.ravel(), p @ q, rtol=1e-4)
    expected = COTANGENT.reshape(-1, 1) * p * (q - (p @ q)[:, None]) / 0.2
    np.testing.assert_allclose(d_params["logits"][0], expected, atol=1e-5)
    assert not d_w.any(), "the logits stand in the weights' place"


def test_dkm():
    _, _, state, value, d_w, _ = applied("dkm", temperature=0.05, k=4, iterations=2)
    t = np.sqrt(0.05 * WEIGHTS.var())
    first = np.asarray(quantizers.get_quantizer("dkm").init(jnp.asarray(WEIGHTS, jnp.float32))[1]["levels"][0], float)

    def forward(w):
        c = first
        for _ in range(2):
            a = np.exp(-np.abs(w.reshape(-1, 1) - c) / t)
            a /= a.sum(axis=1, keepdims=True)
            c = a.T @ w.ravel() / a.sum(axis=0)
        return (a @ c).reshape(w.shape), c

    np.testing.assert_allclose(value, forward(WEIGHTS)[0], atol=1e-5)
    np.testing.assert_allclose(np.asarray(state["levels"][0]), forward(WEIGHTS)[1], atol=1e-5)
    for i, j in [(0, 0), (7, 3), (39, 14)]:
        step = np.zeros_like(WEIGHTS)
        step[i, j] = 1e-5
        slope = ((forward(WEIGHTS + step)[0] - forward(WEIGHTS - step)[0]) * COTANGENT).sum() / 2e-5
        np.testing.assert_allclose(d_w[i, j], slope, atol=2e-3)


def test_hard_forward_is_hard_in_value_and_soft_in_gradient():
    quantizer, params, state, value, d_w, d_params = applied("mec_hard_forward", temperature=0.05, k=4)
    soft = applied("mec", temperature=0.05, k=4)
    codes = np.asarray(quantizer.codes(jnp.asarray(WEIGHTS, jnp.float32), params, state))[0]
    np.testing.assert_array_equal(value.ravel(), np.asarray(params["levels"][0], float)[codes])
    np.testing.assert_allclose(d_w, soft[4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(d_params["levels"], soft[5]["levels"], rtol=1e-4)


def test_softmax_is_the_annealed_softmax_over_distances():
    _, params, _, value, _, _ = applied("softmax", temperature=0.05, k=4)
    q = np.asarray(params["levels"][0], float)
    p = np.exp(-np.square(WEIGHTS[..., None] - q) / (0.05 * WEIGHTS.var()))
    np.testing.assert_allclose(value, (p @ q) / p.sum(axis=-1), atol=1e-5)
