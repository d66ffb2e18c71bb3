"""One battery that every registered quantizer passes, and what is special to each."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mecq_jax.granularity import PerBlock, PerChannel, PerTensor, from_groups, to_groups
from mecq_jax.quantizers import MEC, QUANTIZERS, StraightThrough, get_quantizer
from mecq_jax.quantizers.baselines import LSQ, SLB
from mecq_jax.transport import Newton, occupancy

MAKERS = {name: partial(get_quantizer, name) for name in QUANTIZERS} | {
    "implicit": partial(MEC, gradient="implicit"),
    "skewed": lambda k, **o: MEC(k=k, prior=np.arange(1, k + 1) / np.arange(1, k + 1).sum(), **o),
}
# The method and the two baselines that the library names first meet every kind of group, the others two.
FIRST = ["mec", "implicit", "skewed", "lsq", "ste"]
KINDS = [(2, PerTensor()), (3, PerChannel()), (4, PerBlock(9)), (8, PerChannel(0)), (16, PerTensor())]
FEW_KINDS = [(2, PerTensor()), (16, PerChannel())]
CASES = [(m, *kind) for m in MAKERS for kind in (KINDS if m in FIRST else FEW_KINDS)]


@pytest.fixture(params=CASES, ids=lambda p: f"{p[0]}-{p[1]}-{p[2]}")
def quantizer(request):
    maker, k, granularity = request.param
    return MAKERS[maker](k=k, granularity=granularity)


def weights(rng, shape=(3, 3, 4, 6)):
    return jnp.asarray(rng.normal(size=shape) * 0.1, jnp.float32)


def test_battery(quantizer, rng):
    w = weights(rng)
    params, state = jax.jit(quantizer.init)(w)
    apply = jax.jit(quantizer.apply)
    soft, new_state, diagnostics = apply(w, params, state, 0.1)
    assert soft.shape == w.shape and soft.dtype == w.dtype and bool(jnp.isfinite(soft).all())
    assert all(bool(jnp.isfinite(x)) for x in diagnostics)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)

    codes, levels = quantizer.codes(w, params, new_state), quantizer.levels(params, new_state)
    groups = to_groups(w, quantizer.granularity)
    assert codes.dtype == jnp.uint8 and codes.shape == groups.shape and int(codes.max()) < quantizer.k
    assert levels.shape == (groups.shape[0], quantizer.k) and bool((jnp.diff(levels) >= 0).all())
    if isinstance(quantizer, StraightThrough):
        hard = from_groups(jnp.take_along_axis(levels, codes.astype(jnp.int32), 1), w.shape, quantizer.granularity)
        np.testing.assert_allclose(soft, hard, atol=1e-6)

    def loss(w, params):
        return jnp.sum(jnp.sin(9 * quantizer.apply(w, params, state, 0.1)[0]))

    gradients = jax.jit(jax.grad(loss, (0, 1)))(w, params)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradients))
    moved = gradients[1] if isinstance(quantizer, SLB) else gradients  # its logits stand in the weights' place
    assert all(bool((g != 0).any()) for g in jax.tree.leaves(moved))

    low = apply(w.astype(jnp.bfloat16), params, state, 0.1)[0]
    assert low.dtype == jnp.bfloat16 and bool(jnp.isfinite(low.astype(jnp.float32)).all())


@pytest.mark.parametrize("name", MAKERS)
def test_odd_weights_stay_finite(name, rng):
    """Constant weights, ties, and two weights for four levels."""
    quantizer = MAKERS[name](k=4)
    init, apply = jax.jit(quantizer.init), jax.jit(quantizer.apply)
    square = jax.jit(jax.grad(lambda p, w, s, t: jnp.sum(jnp.square(quantizer.apply(w, p, s, t)[0]))))
    ties = jnp.round(10 * weights(rng, (20, 5)))
    for w in (jnp.full((20, 5), 0.3, jnp.float32), ties, weights(rng, (2, 1))):
        params, state = init(w)
        for temperature in (1.0, 0.1, 0.01):
            soft, state, _ = apply(w, params, state, temperature)
            assert bool(jnp.isfinite(soft).all()) and bool(jnp.isfinite(quantizer.levels(params, state)).all())
            gradient = square(params, w, state, temperature)
            assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradient))


def test_mec_hardens_to_equal_masses_and_soft_meets_hard(rng):
    w = weights(rng, (60, 50))
    for prior in (None, (0.1, 0.2, 0.3, 0.4)):
        quantizer = MEC(k=4, prior=prior, solver=Newton())
        params, state = quantizer.init(w)
        soft, state, _ = quantizer.apply(w, params, state, 1e-4)
        codes = quantizer.codes(w, params, state)
        share = occupancy(codes[0], 4)
        np.testing.assert_allclose(share, prior or [0.25] * 4, atol=2e-3)
        hard = quantizer.levels(params, state)[0][codes[0].astype(jnp.int32)].reshape(w.shape)
        assert float(jnp.mean((jnp.abs(soft - hard) > 1e-3).astype(jnp.float32))) < 0.02


def test_mec_scales_with_the_weights_and_sorts_levels(rng):
    w = weights(rng)
    quantizer = MEC(k=4, solver=Newton())
    params, state = quantizer.init(w)
    soft = quantizer.apply(w, params, state, 0.1)[0]
    tenfold = {"levels": 10 * params["levels"]}, {"potentials": 100 * state["potentials"]}
    large = quantizer.apply(10 * w, *tenfold, 0.1)[0]
    np.testing.assert_allclose(large, 10 * soft, atol=1e-3)
    mixed = {"levels": params["levels"][:, jnp.array([2, 0, 3, 1])]}
    np.testing.assert_allclose(quantizer.apply(w, mixed, state, 0.1)[0], soft, atol=1e-6)


@pytest.mark.fast
def test_lsq_step_gradient_is_the_papers(rng):
    """ds = sum dL (round(w/s) - w/s inside; -Qn or Qp outside) / sqrt(n Qp), arXiv 1902.08153, equations 3 and 4."""
    w, c = weights(rng, (30, 10)), rng.normal(size=(30, 10))
    quantizer = LSQ(k=8)
    params, state = quantizer.init(w)
    got = jax.grad(lambda p: jnp.sum(jnp.asarray(c, jnp.float32) * quantizer.apply(w, p, state)[0]))(params)["step"]
    v = np.asarray(w, float) / float(params["step"][0])
    inside = np.where(v < -4, -4, np.where(v > 3, 3, np.round(v) - v))
    np.testing.assert_allclose(float(got[0]), (c * inside).sum() / np.sqrt(300 * 3), rtol=1e-3)


def test_mec_works_under_scan(rng):
    w, quantizer = weights(rng), MEC(k=4, granularity=PerChannel())
    params, state = quantizer.init(w)

    def step(state, temperature):
        _, state, diagnostics = quantizer.apply(w, params, state, temperature)
        return state, diagnostics.marginal_error

    _, errors = jax.lax.scan(step, state, jnp.asarray([0.3, 0.25, 0.2, 0.15], jnp.float32))
    assert float(errors.max()) < 0.05
