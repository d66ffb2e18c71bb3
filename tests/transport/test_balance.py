"""The marginal as a dial, priors with zeros, learnt and Lloyd-Max masses, and problems drawn at random."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from mecq_jax import quantizers, transport
from mecq_jax.quantizers import MEC
from mecq_jax.transport import Newton, Ott, Sinkhorn, hard_codes, occupancy, soft_assign

solve = jax.jit(transport.solve, static_argnames=("balance", "solver"))
assign = jax.jit(soft_assign, static_argnames=("balance", "solver", "gradient"))
W = np.random.default_rng(3).normal(size=80)
Q = np.array([-1.2, -0.3, 0.5, 1.3])
B = np.array([0.1, 0.2, 0.3, 0.4])
CASES = [(0.05, 0.1), (0.3, 0.1), (0.9, 0.1), (0.9, 0.02), (0.99, 0.05), (0.5, 1.0)]


def reference(w, q, epsilon, b, balance):
    """Potentials in float64: SciPy's minimiser on -F, refined by Newton's method in NumPy."""
    tau = epsilon * balance / (1 - balance)
    cost = (w[:, None] - q[None]) ** 2

    def negative(g):
        return tau * logsumexp(np.log(b) - g / tau) + epsilon * logsumexp((g[None] - cost) / epsilon, axis=1).mean()

    g = minimize(negative, np.zeros(len(q)), method="BFGS", options={"gtol": 1e-9}).x
    for _ in range(50):
        p = softmax((g[None] - cost) / epsilon, axis=1)
        m, beta = p.mean(axis=0), softmax(np.log(b) - g / tau)
        hessian = (np.diag(m) - p.T @ p / len(w)) / epsilon + (np.diag(beta) - np.outer(beta, beta)) / tau
        g = g + np.linalg.pinv(hessian) @ (beta - m)
    assert np.abs(beta - m).max() < 1e-12, "the reference must have converged"
    return g - g.mean(), p


@pytest.mark.parametrize("balance,epsilon", CASES)
@pytest.mark.parametrize("solver", [Newton(), Sinkhorn(), Ott(tolerance=1e-6)], ids=["newton", "sinkhorn", "ott"])
def test_relaxed_potentials_equal_the_float64_reference(solver, balance, epsilon):
    args = (jnp.asarray(x, jnp.float32) for x in (W, Q, epsilon, B))
    solution = solve(*args, balance=balance, solver=solver)
    expected, _ = reference(W, Q, epsilon, B, balance)
    np.testing.assert_allclose(solution.potentials, expected, atol=5e-4)
    assert float(solution.marginal_error) < 1e-4


def test_no_balance_is_a_softmax_over_distances():
    w, q = jnp.asarray(W, jnp.float32), jnp.asarray(Q, jnp.float32)
    out = assign(w, q, 0.1, balance=0.0)
    p = softmax(-((W[:, None] - Q[None]) ** 2) / 0.1, axis=1)
    np.testing.assert_allclose(out.soft, p @ Q, atol=1e-5)

    def plain(w, q):
        return jnp.sin(q @ jax.nn.softmax(-jnp.square(w[None] - q[:, None]) / 0.1, axis=0)).sum()

    got = jax.grad(lambda w, q: jnp.sin(soft_assign(w, q, 0.1, balance=0.0).soft).sum(), (0, 1))(w, q)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), got, jax.grad(plain, (0, 1))(w, q))


def test_the_dial_goes_from_free_to_equal_masses():
    w, q = jnp.asarray(W, jnp.float32), jnp.asarray(Q, jnp.float32)
    masses = [assign(w, q, 0.05, balance=rho).mass for rho in (0.0, 0.5, 0.9, 0.99, 0.999, 1.0)]
    distance = [float(jnp.abs(m - 0.25).max()) for m in masses]
    assert all(a > b for a, b in pairwise(distance)) and distance[-1] < 1e-5
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        soft_assign(w, q, 0.05, balance=1.5)


@pytest.mark.parametrize("balance,epsilon", CASES)
def test_relaxed_gradients_equal_central_differences(balance, epsilon, rng):
    c = rng.normal(size=W.size)

    def loss64(w, q, epsilon, b):
        _, p = reference(w, q, epsilon, b, balance)
        entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1).mean()
        return c @ np.sin(2 * (p @ q)) + 3 * entropy

    def loss(w, q, epsilon, b):
        out = soft_assign(w, q, epsilon, b, balance=balance)
        return jnp.asarray(c, jnp.float32) @ jnp.sin(2 * out.soft) + 3 * out.entropy

    point = (W, Q, np.array(epsilon), B)
    gradients = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*(jnp.asarray(x, jnp.float32) for x in point))
    for which, gradient in enumerate(gradients):
        direction = np.asarray(rng.normal(size=np.shape(gradient)))
        direction = direction - direction.mean() if which == 3 else direction
        h = 1e-5 * min(1.0, epsilon)
        ends = [[x + s * h * direction if i == which else x for i, x in enumerate(point)] for s in (1, -1)]
        expected = (loss64(*ends[0]) - loss64(*ends[1])) / (2 * h)
        size = np.linalg.norm(np.asarray(gradient)) * np.linalg.norm(direction)
        assert abs(np.sum(np.asarray(gradient, float) * direction) - expected) < 5e-3 * size, which


@partial(jax.jit, static_argnames="balance")
def sine_gradient(w, q, b, balance):
    def loss(w, q, b):
        return jnp.sin(soft_assign(w, q, 0.05, b, balance=balance).soft).sum()

    return jax.grad(loss, (0, 1, 2))(w, q, b)


@pytest.mark.parametrize("balance", [1.0, 0.9])
@pytest.mark.parametrize("zeros", [[0], [3], [1, 2], [0, 3], [0, 1]])
def test_levels_of_no_mass_are_as_if_left_out(zeros, balance):
    w = jnp.asarray(W, jnp.float32)
    b = np.where(np.isin(np.arange(4), zeros), 0, B)
    keep = np.flatnonzero(b)
    b = jnp.asarray(b / b.sum(), jnp.float32)
    full = assign(w, jnp.asarray(Q, jnp.float32), 0.05, b, balance=balance)
    few = assign(w, jnp.asarray(Q[keep], jnp.float32), 0.05, b[keep], balance=balance)
    np.testing.assert_allclose(full.soft, few.soft, atol=1e-4)
    assert bool((full.mass[jnp.asarray(zeros)] == 0).all()) and bool(jnp.isfinite(full.solution.potentials).all())
    codes = hard_codes(w, jnp.asarray(Q, jnp.float32), full.solution.potentials)
    np.testing.assert_array_equal(occupancy(codes, 4)[jnp.asarray(zeros)], 0.0)
    assert all(bool(jnp.isfinite(x).all()) for x in sine_gradient(w, jnp.asarray(Q, jnp.float32), b, balance))


def test_exact_balance_hardens_to_quantiles(rng):
    w = jnp.asarray(rng.laplace(size=5000), jnp.float32)
    q, b = quantizers.quantile(w[None], 4)[0], jnp.asarray(B, jnp.float32)
    codes = hard_codes(w, q, solve(w, q, 1e-4, b).potentials)
    expected = np.searchsorted(np.quantile(np.asarray(w), np.cumsum(B)[:-1]), np.asarray(w))
    assert np.mean(np.asarray(codes) == expected) > 0.998


def test_priors_of_a_quantizer(rng):
    w = jnp.asarray(rng.normal(size=(64, 48)), jnp.float32)
    lloyd, learned = MEC(k=8, prior="lloyd_max", solver=Newton()), MEC(k=8, prior="learned", solver=Newton())
    params, state = jax.jit(lloyd.init)(w)
    _, state, _ = jax.jit(lloyd.apply)(w, params, state, 1e-3)
    share = occupancy(lloyd.codes(w, params, state)[0], 8)
    assert float(share.max()) > 0.17 and float(share.min()) < 0.09  # a Gaussian's cells are not of equal mass
    np.testing.assert_allclose(share, state["prior"][0], atol=5e-3)

    params, state = jax.jit(learned.init)(w)
    error = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(learned.apply(w, p, state, 0.05)[0] - w))))
    gradient = error(params)["prior"][0]
    assert float(gradient[0]) > 0 and float(gradient[3]) < 0  # less error with more mass in the middle
    with pytest.raises(ValueError, match="lloyd_max"):
        MEC(prior="gaussian")


def masses64(w, q, g, epsilon, b, balance):
    w, q, g, b = (np.asarray(x, np.float64) for x in (w, q, g, b))
    m = softmax((g[None] - (w[:, None] - q[None]) ** 2) / epsilon, axis=1).mean(axis=0)
    if balance == 1:
        return m, b
    logs = np.where(b > 0, np.log(np.where(b > 0, b, 1)), -np.inf)
    return m, softmax(logs - g * (1 - balance) / balance / epsilon)


WEIGHTS = {
    "normal": lambda r, n: r.normal(size=n),
    "laplace": lambda r, n: r.laplace(size=n) + 3,
    "student": lambda r, n: r.standard_t(2, size=n),
    "cauchy": lambda r, n: r.standard_cauchy(size=n),
    "ties": lambda r, n: np.round(2 * r.normal(size=n)) / 2,
    "sparse": lambda r, n: np.where(r.random(n) < 0.6, 0.0, r.normal(size=n)),
    "mixture": lambda r, n: np.where(r.random(n) < 0.5, 0.01 * r.normal(size=n), 5 * r.normal(size=n) + 3),
    "far": lambda r, n: 0.1 * r.normal(size=n) + 20,
}
PRIORS = {
    "uniform": lambda r, k: np.ones(k),
    "skewed": lambda r, k: np.arange(1.0, k + 1),
    "zeros": lambda r, k: np.where(np.arange(k) % 3 == r.integers(3), 0.0, 1.0),
    "extreme": lambda r, k: np.exp(-2 * r.normal(size=k)),
}


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(sorted(WEIGHTS)),
    prior=st.sampled_from(sorted(PRIORS)),
    size=st.sampled_from([(7, 4), (1000, 4), (1000, 16), (3000, 64)]),
    exponent=st.floats(-4, 1),
    balance=st.sampled_from([1.0, 0.9]),
    low=st.booleans(),
)
def test_random_problems_are_solved_and_never_misreported(seed, kind, prior, size, exponent, balance, low):
    """From a cold start: no NaN, `converged` is true in float64 too, and almost always so."""
    rng, (n, k) = np.random.default_rng(seed), size
    w = jnp.asarray(WEIGHTS[kind](rng, n), jnp.float32)
    w = w.astype(jnp.bfloat16).astype(jnp.float32) if low else w
    q = quantile(w[None], k)[0]
    b = PRIORS[prior](rng, k)
    b = jnp.asarray(b / b.sum(), jnp.float32)
    epsilon = 10**exponent * max(float(w.var()), 1e-3 * float(q[-1] - q[0]) ** 2, 1e-6)
    solution = solve(w, q, jnp.float32(epsilon), b, balance=balance)
    assert bool(jnp.isfinite(solution.potentials).all())
    m, beta = masses64(w, q, solution.potentials, epsilon, b, balance)
    error = k * np.abs(m - beta).max()
    assert not bool(solution.converged) or error < 2e-2
    assert n < 1000 or error < 2e-2, "a group of this size is to be solved"


quantile = jax.jit(quantizers.quantile, static_argnums=1)


@pytest.mark.parametrize("k", [2, 64, 256])
@pytest.mark.parametrize("n", [1, 20_000])
def test_from_two_to_256_levels(n, k, rng):
    w = jnp.asarray(rng.normal(size=n), jnp.float32)
    q = quantizers.initial_levels(w[None], k, "uniform")[0] + jnp.linspace(-0.1, 0.1, k, dtype=jnp.float32)
    for epsilon in (1e-2, 0.3, 10.0):
        solution = solve(w, q, epsilon)
        assert bool(solution.converged) and float(solution.marginal_error) < 2e-3


def test_dual_value_is_highest_at_the_solution(rng):
    w, q, b = (jnp.asarray(x, jnp.float32) for x in (W, Q, B))
    for balance in (1.0, 0.7):
        g = solve(w, q, 0.1, b, balance=balance).potentials
        value = partial(transport.dual_value, w, q, epsilon=jnp.float32(0.1), b=b, balance=balance)
        best = float(value(g=g))
        for _ in range(5):
            assert float(value(g=g + jnp.asarray(0.05 * rng.normal(size=4), jnp.float32))) < best
