"""The three solvers against float64 references: Newton in NumPy, SciPy's linear program, and each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.special import logsumexp, softmax

from mecq_jax import quantizers, transport
from mecq_jax.transport import Newton, Ott, Sinkhorn, _laplacian

solve = jax.jit(transport.solve, static_argnames="solver")  # compiled once for each shape
lloyd_max = jax.jit(quantizers.lloyd_max, static_argnums=1)
RELATIVE = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)


def masses(w, q, g, epsilon):
    """m(g) in float64."""
    w, q, g = (np.asarray(x, np.float64) for x in (w, q, g))
    return softmax((g[None] - (w[:, None] - q[None]) ** 2) / epsilon, axis=1).mean(axis=0)


def reference(w, q, epsilon, b):
    """Potentials in float64 by log-domain Sinkhorn to the end."""
    w, q = np.asarray(w, np.float64), np.asarray(q, np.float64)
    cost, f, g = (w[:, None] - q[None]) ** 2, np.zeros(len(w)), np.zeros(len(q))
    for _ in range(20_000):
        f = -epsilon * logsumexp((g[None] - cost) / epsilon, axis=1) - epsilon * np.log(len(w))
        new = epsilon * np.log(b) - epsilon * logsumexp((f[:, None] - cost) / epsilon, axis=0)
        if np.max(np.abs(new - g)) < 1e-12:
            break
        g = new
    return g - g.mean()


def problem(name, rng, n=4000):
    return {
        "normal": lambda: rng.normal(size=n),
        "laplace": lambda: rng.laplace(size=n) + 3,
        "ties": lambda: np.round(2 * rng.normal(size=n)) / 2,
        "two values": lambda: np.where(rng.random(n) < 0.3, 1.0, -1.0),
        "few": lambda: np.array([0.1, 0.2, 0.9]),
    }[name]().astype(np.float32)


@pytest.mark.parametrize("prior", [None, "skewed"])
@pytest.mark.parametrize("k", [2, 3, 4, 8])
@pytest.mark.parametrize("solver", [Newton(), Sinkhorn(), Ott(tolerance=2e-6)], ids=["newton", "sinkhorn", "ott"])
def test_potentials_equal_the_float64_reference(solver, k, prior, rng):
    w = jnp.asarray(rng.normal(size=150), jnp.float32)
    q = quantizers.quantile(w[None], k)[0]
    b = np.full(k, 1 / k) if prior is None else (np.arange(k) + 1) / (np.arange(k) + 1).sum()
    epsilon = 0.1
    solution = solve(w, q, epsilon, jnp.asarray(b, jnp.float32), solver=solver)
    np.testing.assert_allclose(solution.potentials, reference(w, q, epsilon, b), atol=2e-4)
    assert float(solution.marginal_error) < 1e-4


def test_small_epsilon_is_the_linear_program(rng):
    """As epsilon falls the soft assignment costs what the optimal coupling costs."""
    n, k = 40, 4
    w, q = jnp.asarray(rng.normal(size=n), jnp.float32), jnp.array([-1.2, -0.3, 0.4, 1.1], jnp.float32)
    cost = (np.asarray(w, float)[:, None] - np.asarray(q)[None]) ** 2
    rows = np.kron(np.eye(n), np.ones((1, k)))
    columns = np.kron(np.ones((1, n)), np.eye(k))
    ends = np.concatenate([np.full(n, 1 / n), np.full(k, 1 / k)])
    least = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=ends, bounds=(0, None)).fun
    g = solve(w, q, 1e-4).potentials
    p = np.asarray(transport.probabilities(w, q, g, jnp.float32(1e-4))).T / n
    np.testing.assert_allclose((p * cost).sum(), least, rtol=1e-3)


@pytest.mark.parametrize("k", [3, 4, 16])
@pytest.mark.parametrize("name", ["normal", "laplace", "ties", "two values", "few"])
def test_newton_is_safe_from_a_cold_start(name, k, rng):
    w = problem(name, rng)
    q = quantizers.initial_levels(jnp.asarray(w)[None], k, "uniform")[0]
    for relative in RELATIVE:
        epsilon = relative * float(w.var())
        solution = solve(w, q, epsilon)
        error = k * np.max(np.abs(masses(w, q, solution.potentials, epsilon) - 1 / k))
        assert error < 1e-2, (relative, solution)
        assert abs(error - float(solution.marginal_error)) < 1e-2
        assert not bool(solution.converged) or error < 2e-3, (relative, solution)


def test_constant_weights_are_shared_equally():
    """The variance is 0; what float32 resolves is epsilon against the square of the levels' distance, here 0.16."""
    w, q = jnp.full(50, 0.7, jnp.float32), jnp.linspace(0.5, 0.9, 4, dtype=jnp.float32)
    for epsilon in 0.16 * np.array([1e-7, 1e-6, 1e-5, 1e-4, 1e-2, 1.0, 10.0]):
        solution = solve(w, q, epsilon)
        assert bool(jnp.isfinite(solution.potentials).all())
        assert epsilon < 1e-6 or float(solution.marginal_error) < 1e-2


def test_empty_cells_fill(rng):
    """Levels far outside the weights, started from zero potentials: their cells are empty at first."""
    w, q = rng.normal(size=1000).astype(np.float32), np.array([-9.0, -8.0, 8.0, 30.0], np.float32)
    solution = solve(w, q, 0.1, init=jnp.zeros(4, jnp.float32))
    assert float(solution.marginal_error) < 1e-2 and bool(np.isfinite(solution.potentials).all())


def test_newton_takes_few_passes_and_fewer_warm(rng):
    w = jnp.asarray(rng.normal(size=100_000), jnp.float32)
    q = quantizers.quantile(w[None], 4)[0]
    for epsilon in (0.1, 0.01, 0.001):
        cold = solve(w, q, epsilon)
        assert bool(cold.converged) and int(cold.iterations) <= 9
        moved = w + jnp.asarray(1e-3 * rng.normal(size=w.shape), jnp.float32)
        warm = solve(moved, q, epsilon, init=cold.potentials)
        zero = solve(moved, q, epsilon, init=jnp.zeros(4, jnp.float32))
        assert bool(warm.converged) and int(warm.iterations) <= int(zero.iterations)


@pytest.mark.parametrize("shift,scale", [(0.0, 1e-6), (0.0, 1e4), (100.0, 1.0)])
def test_shift_and_scale(shift, scale, rng):
    w, q = rng.normal(size=500).astype(np.float32), np.array([-1, -0.3, 0.3, 1], np.float32)
    plain = solve(w, q, 0.05)
    moved = solve(w * scale + np.float32(shift), q * scale + np.float32(shift), 0.05 * scale**2)
    np.testing.assert_allclose(moved.potentials / scale**2, plain.potentials, atol=2e-3)


def test_fixed_iterations_vmap_and_bfloat16(rng):
    w = jnp.asarray(rng.normal(size=(3, 200)), jnp.float32)
    q = quantizers.quantile(w, 4)
    for solver in (Newton(max_iterations=5, tolerance=None), Sinkhorn(max_iterations=7, tolerance=None)):
        many = jax.vmap(lambda w, q, s=solver: solve(w, q, 0.1, solver=s))(w, q)
        assert many.iterations.tolist() == [solver.max_iterations] * 3
        one = solve(w[1], q[1], 0.1, solver=solver)
        np.testing.assert_allclose(many.potentials[1], one.potentials, atol=1e-5)
    assert solve(jnp.asarray(w[0], jnp.bfloat16), q[0], 0.1).converged


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 4, 8]), st.floats(-4, 1), st.floats(0.0, 2.0))
def test_random_mixtures(seed, k, exponent, skew):
    """Never a NaN, and `converged` is never a lie: the masses are computed again in float64."""
    rng = np.random.default_rng(seed)
    w = np.where(rng.random(300) < 0.5, rng.normal(size=300), skew * rng.laplace(size=300) + 1).astype(np.float32)
    q = lloyd_max(w[None], k)[0]
    epsilon = 10**exponent * float(w.var())
    solution = solve(w, q, epsilon)
    assert bool(np.isfinite(solution.potentials).all())
    error = k * np.max(np.abs(masses(w, q, solution.potentials, epsilon) - 1 / k))
    assert not bool(solution.converged) or error < 5e-3


@pytest.mark.parametrize(
    "solver,match",
    [
        ("simplex", "not one of"),
        (Newton(max_iterations=0), "at least 1"),
        (Sinkhorn(tolerance=0.0), "above 0"),
        (Ott(max_iterations=15), "multiple of 10"),
    ],
)
def test_bad_solvers(solver, match):
    with pytest.raises(ValueError, match=match):
        transport.get_solver(solver)


@pytest.mark.parametrize(
    "prior,match",
    [([0.5, 0.5], "shape"), ([1.0, 0, 0, 0], "two levels"), ([1.5, -0.5, 0, 0], "at least 0"), ([1.0] * 4, "sums to")],
)
def test_bad_priors(prior, match):
    with pytest.raises(ValueError, match=match):
        transport.check_prior(prior, 4)


def test_gradient_and_curvature_of_the_semidual(rng):
    """beta - m is grad F, and solve_laplacian inverts -epsilon hess F on the potentials with sum zero."""
    w, q = jnp.asarray(rng.normal(size=300), jnp.float32), jnp.asarray([-1.0, -0.2, 0.3, 1.2], jnp.float32)
    g, e, b = jnp.asarray([0.1, -0.1, 0.05, -0.05], jnp.float32), jnp.float32(0.2), jnp.full(4, 0.25, jnp.float32)
    for balance in (1.0, 0.6):
        dual = partial(transport.dual_value, w, q, epsilon=e, b=b, balance=balance)
        m, links = transport.marginal_and_links(w, q, g, e)
        beta = transport.relaxed_marginal(g, e, b, balance)
        np.testing.assert_allclose(jax.grad(lambda g, f=dual: f(g))(g), beta - m, atol=1e-6)
        rhs = jnp.asarray([0.3, -0.1, 0.2, -0.4], jnp.float32)
        hessian = np.asarray(jax.hessian(lambda g, f=dual: f(g))(g), np.float64)
        expected = np.linalg.pinv(-float(e) * hessian, rcond=1e-4) @ np.asarray(rhs)
        got = _laplacian.solve_laplacian(
            _laplacian.hessian_links(links, beta, balance), rhs, b, noise=jnp.zeros_like(rhs)
        )
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-5)
