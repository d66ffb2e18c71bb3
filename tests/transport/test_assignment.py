"""Soft assignment: gradients against float64 central differences, memory, hard codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from mecq_jax import transport
from mecq_jax.transport import Newton, Sinkhorn, hard_codes, implicit_potentials, occupancy, soft_assign, thresholds

W = np.random.default_rng(1).normal(size=60) * 0.1
Q = np.array([-0.15, -0.04, 0.05, 0.14])
COTANGENT = np.random.default_rng(2).normal(size=60)


def reference(w, q, epsilon, b):
    """The loss below in float64: Newton to the end in NumPy."""
    b = b - (b.sum() - 1) / len(b)  # float32 masses sum to 1 only in float32
    cost, g = (w[:, None] - q[None]) ** 2, np.zeros(len(q))
    for e in np.geomspace(max(0.02, epsilon), epsilon, 30):
        for _ in range(50):
            p = softmax((g[None] - cost) / e, axis=1)
            r = b - p.mean(axis=0)
            step = e * np.linalg.pinv(np.diag(p.mean(axis=0)) - p.T @ p / len(w)) @ r
            g = g + step * min(1.0, 0.02 / np.abs(step).max()) if np.abs(step).max() else g
            if np.abs(r).max() < 1e-14:
                break
    p = softmax((g[None] - cost) / epsilon, axis=1)
    assert np.abs(b - p.mean(axis=0)).max() < 1e-12, "the reference must have converged"
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1).mean()
    return COTANGENT @ np.sin(8 * (p @ q)) + 3 * entropy


def loss(w, q, epsilon, b, **options):
    out = soft_assign(w, q, epsilon, b, **options)
    return jnp.asarray(COTANGENT, jnp.float32) @ jnp.sin(8 * out.soft) + 3 * out.entropy


def arguments(relative, b=None):
    b = np.full(4, 0.25) if b is None else b
    return tuple(jnp.asarray(x, jnp.float32) for x in (W, Q, relative * W.var(), b))


def difference(args, which, direction, h):
    up, down = ([np.array(a, np.float64) for a in args] for _ in range(2))
    up[which], down[which] = up[which] + h * direction, down[which] - h * direction
    return (reference(*up) - reference(*down)) / (2 * h)


SKEWED = np.array([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    "relative,prior",
    [(0.3, None), (0.1, None), (0.03, None), (0.01, None), (0.3, SKEWED), (0.1, SKEWED), (0.03, SKEWED)],
)
def test_gradients_equal_central_differences(relative, prior, rng):
    args = arguments(relative, prior)
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*args)
    steps = (1e-6, 1e-6, 1e-4 * relative * W.var(), 1e-6)
    for which, (gradient, h) in enumerate(zip(gradients, steps, strict=True)):
        for _ in range(3):
            d = np.asarray(rng.normal(size=np.shape(gradient)))
            d = d - d.mean() if which == 3 else d  # masses keep their sum
            expected = difference(args, which, d, h)
            bound = 5e-3 * np.linalg.norm(np.asarray(gradient)) * np.linalg.norm(d)
            assert abs(np.sum(np.asarray(gradient, np.float64) * d) - expected) < bound, (which, expected)


def test_gradient_equals_the_unrolled_solver_and_not_the_stopped_one():
    w, q, e, b = arguments(0.3)

    def unrolled(w, q, stop):
        solution = transport.solve(w, q, e, b, solver=Sinkhorn(max_iterations=300, tolerance=None))
        g = jax.lax.stop_gradient(solution.potentials) if stop else solution.potentials
        p = transport.probabilities(w, q, g, e)
        return jnp.asarray(COTANGENT, jnp.float32) @ jnp.sin(8 * (q @ p))

    def implicit(w, q):
        return loss(w, q, e, b) - 3 * soft_assign(w, q, e, b).entropy

    for which in (0, 1):
        got = jax.grad(implicit, which)(w, q)
        np.testing.assert_allclose(got, jax.grad(unrolled, which)(w, q, False), rtol=1e-2, atol=2e-2)
        stopped = jax.grad(unrolled, which)(w, q, True)
        assert np.linalg.norm(got - stopped) > 0.1 * np.linalg.norm(got)


def test_grad_of_grad_and_vmap():
    w, q, e, b = arguments(0.3)
    first = jax.jit(jax.grad(loss, 1))
    hessian = jax.jit(jax.jacrev(jax.grad(loss, 1), 1))(w, q, e, b)
    for j in range(4):
        h = jnp.zeros(4, jnp.float32).at[j].set(2e-4)
        column = (first(w, q + h, e, b) - first(w, q - h, e, b)) / 4e-4
        np.testing.assert_allclose(hessian[:, j], column, atol=2e-2 * float(jnp.abs(hessian).max()))
    both = jax.vmap(jax.grad(loss), in_axes=(0, None, None, None))(jnp.stack([w, 2 * w]), q, e, b)
    np.testing.assert_allclose(both[0], jax.grad(loss)(w, q, e, b), rtol=1e-3, atol=1e-3)


def test_forward_mode_is_refused():
    w, q, e, b = arguments(0.1)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda q: implicit_potentials(q, w, q, e, b), (q,), (q,))


def test_mirror_leaves_out_the_weights_jacobian_alone():
    w, q, e, b = arguments(0.1)

    def only_soft(w, q, gradient):
        return jnp.asarray(COTANGENT, jnp.float32) @ soft_assign(w, q, e, b, gradient=gradient).soft

    np.testing.assert_allclose(jax.grad(only_soft)(w, q, "mirror"), COTANGENT, rtol=1e-6)
    implicit, mirror = (jax.grad(only_soft, 1)(w, q, name) for name in ("implicit", "mirror"))
    np.testing.assert_allclose(mirror, implicit, rtol=1e-5, atol=1e-6)  # sums of numbers of about 1
    np.testing.assert_allclose(only_soft(w, q, "mirror"), only_soft(w, q, "implicit"), rtol=1e-5)
    names = ("implicit", "mirror")
    entropies = [jax.grad(lambda w, n=n: soft_assign(w, q, e, b, gradient=n).entropy)(w) for n in names]
    np.testing.assert_allclose(*entropies, rtol=1e-5, atol=1e-6)


def test_nothing_of_size_n_times_k_is_kept(rng):
    """What the backward pass holds is a few vectors of n, at k = 16."""
    n, k = 5000, 16
    w = jnp.asarray(rng.normal(size=n), jnp.float32)
    q = jnp.linspace(-2.0, 2.0, k, dtype=jnp.float32)
    solver = Newton(max_iterations=2, tolerance=None)
    for gradient in ("implicit", "mirror"):
        options = {"solver": solver, "gradient": gradient}
        _, pullback = jax.vjp(lambda w, q, o=options: soft_assign(w, q, 0.1, **o)[:2], w, q)
        kept = [x for x in jax.tree.leaves(pullback) if hasattr(x, "size")]
        assert kept and max(x.size for x in kept) <= n
        assert sum(x.size for x in kept) < 6 * n


@pytest.mark.parametrize("n", [2, 3, 8, 36])
def test_gradients_stay_bounded_in_small_groups(n, rng):
    """Where borders fall in wide gaps, K is nearly singular; the weights' gradient must not be its rounding."""
    w, c = (jnp.asarray(rng.normal(size=(200, n)), jnp.float32) for _ in range(2))
    q = jnp.asarray(np.sort(rng.normal(size=(200, 4)), axis=1), jnp.float32)

    def one(w, q, c, e):
        out = soft_assign(w, q, e * w.var())
        return jnp.sum(c * out.soft) + out.entropy

    for e in (0.1, 1e-2, 1e-3, 1e-4):
        gradients = jax.jit(jax.vmap(jax.grad(one, (0, 1)), in_axes=(0, 0, 0, None)))(w, q, c, jnp.float32(e))
        assert all(float(jnp.abs(x).max()) < 100 / e**0.5 for x in gradients)


def test_entropy_has_its_bounds_and_finite_gradients():
    w, q, _, b = arguments(0.1)
    assign = jax.jit(soft_assign)
    entropies = [float(assign(w, q, e * W.var()).entropy) for e in (1e-4, 0.1, 1e4)]
    rounding = 2**-24 * np.square(np.ptp(W)) / (1e-4 * W.var())  # of the largest logit
    assert -rounding <= entropies[0] < 0.05 < entropies[1] < entropies[2] <= np.log(4) + 1e-5
    np.testing.assert_allclose(entropies[2], np.log(4), atol=1e-3)
    gradient = jax.grad(lambda w: soft_assign(w, q, jnp.float32(1e-4 * W.var()), b).entropy)(w)
    assert bool(jnp.isfinite(gradient).all())


def test_types_and_shift():
    w, q, e, b = arguments(0.1)
    assert soft_assign(w.astype(jnp.bfloat16), q, e, b).soft.dtype == jnp.bfloat16
    shifted = soft_assign(w + 0.5, q, e, b).soft
    np.testing.assert_allclose(shifted, soft_assign(w, q, e, b).soft, atol=1e-4)
    with pytest.raises(ValueError, match="gradient"):
        soft_assign(w, q, e, b, gradient="ste")


@pytest.mark.parametrize("case", ["solved", "random", "empty cells", "equal levels"])
def test_codes_are_the_argmax(case, rng):
    w = jnp.asarray(rng.normal(size=20_000), jnp.float32)
    q = jnp.asarray(np.sort(rng.normal(size=6)), jnp.float32)
    g = jnp.asarray(rng.normal(size=6) * (2.0 if case == "empty cells" else 0.2), jnp.float32)
    if case == "solved":
        g = transport.solve(w, q, 0.01).potentials
    if case == "equal levels":
        q = q.at[2].set(q[1])
    scores = np.asarray(g, float)[None] - (np.asarray(w, float)[:, None] - np.asarray(q, float)[None]) ** 2
    top = np.sort(scores, axis=1)
    clear = top[:, -1] - top[:, -2] > 1e-5
    assert clear.mean() > 0.98
    codes = hard_codes(w, q, g)
    np.testing.assert_array_equal(np.asarray(codes)[clear], scores.argmax(axis=1)[clear])
    assert bool((jnp.diff(thresholds(q, g)) >= 0).all())
    np.testing.assert_allclose(occupancy(codes, 6), np.bincount(np.asarray(codes), minlength=6) / codes.size, rtol=1e-6)
