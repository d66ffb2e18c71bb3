"""Passes by blocks: the same numbers, bounded temporaries, and devices that keep to their own weights."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mecq_jax import transport
from mecq_jax.transport import Newton, _blockwise, soft_assign

Q = jnp.asarray([-1.4, -0.8, -0.4, -0.1, 0.1, 0.4, 0.8, 1.4], jnp.float32)


def block(w, c):
    p = jax.nn.softmax(-jnp.square(w[None] - Q[:, None]), axis=0)
    return {"mass": p.sum(axis=1), "all": jnp.sum(c)}, (c * (Q @ p), p.max(axis=0))


@pytest.mark.parametrize("n", [1, 63, 1000, 8192, 8193, 12_289])
def test_blocks_add_up_to_the_whole(n, rng, monkeypatch):
    monkeypatch.setitem(_blockwise.BUDGET, "cpu", 8 * 100)
    w, c = (jnp.asarray(rng.normal(size=n), jnp.float32) for _ in range(2))
    (sums, maps), (expected, whole) = _blockwise.map_reduce_blocks(block, (w, c), 8), block(w, c)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), (sums, maps), (expected, whole))

    def loss(f):
        return lambda w: (lambda out: jnp.vdot(out[0]["mass"], Q) + jnp.sin(out[1][0]).sum())(f(w, c))

    blocked = jax.grad(loss(lambda *x: _blockwise.map_reduce_blocks(block, x, 8)))(w)
    np.testing.assert_allclose(blocked, jax.grad(loss(block))(w), atol=1e-5)


def test_sums_keep_their_digits(monkeypatch):
    """16,000 blocks: a plain float32 sum would be off by more than 1e-5."""
    monkeypatch.setitem(_blockwise.BUDGET, "cpu", 64)
    w = jnp.full(1_024_000, 0.1, jnp.float32)
    (total, _), _ = _blockwise.map_reduce_blocks(lambda x: ((x.sum(), x.min()), ()), (w,), 1)
    np.testing.assert_allclose(total, 1_024_000 * np.float64(np.float32(0.1)), rtol=5e-7)


@pytest.mark.parametrize("groups", [1, 16])
def test_groups_by_and_by_are_groups_at_once(groups, rng, monkeypatch):
    w = jnp.asarray(rng.normal(size=(groups, 300)), jnp.float32)

    def one(w, extra):
        return {"soft": soft_assign(w, Q, 0.1, solver=Newton(max_iterations=2, tolerance=None)).soft + extra["shift"]}

    arrays = (w, {"shift": jnp.arange(groups, dtype=jnp.float32)})
    expected = jax.jit(jax.vmap(one))(*arrays)
    for budget in (8 * 64, 8 * 300 * 2):
        monkeypatch.setitem(_blockwise.BUDGET, "cpu", budget)
        got = jax.jit(lambda *a: transport.map_groups(one, a, 300, 8))(*arrays)
        np.testing.assert_allclose(got["soft"], expected["soft"], atol=1e-4)


def test_a_subsample_sees_every_channel(rng):
    """Channels of different scale, as they lie in a flattened kernel: a fixed stride of 16 would see one of them."""
    n, size = 2**18, 2**14
    w = jnp.asarray(rng.normal(size=(n // 16, 16)) * 2.0 ** np.arange(16), jnp.float32).reshape(n)
    sample = np.sort(np.asarray(_blockwise.subsample(w, size)).ravel())
    shares = np.linspace(0.05, 0.95, 19)
    got = np.searchsorted(np.sort(np.asarray(w)), np.quantile(sample, shares)) / n
    np.testing.assert_allclose(got, shares, atol=0.02)
    assert np.array_equal(
        np.sort(np.asarray(_blockwise.subsample(w[:100], size)).ravel()), np.sort(np.asarray(w[:100]))
    )


def value_and_grad(w, q):
    def loss(w, q):
        out = soft_assign(w, q, 0.01)
        return jnp.sin(out.soft).sum() + out.entropy

    return jax.value_and_grad(loss, (0, 1))(w, q)


def test_temporaries_are_below_four_times_the_weights(monkeypatch):
    """On one device; n x k alone would be eight times the weights."""
    monkeypatch.setattr(_blockwise, "device_shards", lambda n: 1)
    n = 2**20
    compiled = jax.jit(value_and_grad).lower(jax.ShapeDtypeStruct((n,), jnp.float32), Q).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 4 * n


COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


def collectives(text):
    """(kind, elements of its largest array) of each collective in compiled HLO."""
    for shape, kind in COLLECTIVE.findall(text):
        sizes = [np.prod([int(d) for d in dims.split(",") if d]) for dims in re.findall(r"\[([\d,]*)\]", shape)]
        yield kind, int(max(sizes, default=1))


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_devices_reduce_levels_only(warm, rng):
    """Weights of one group on eight devices: the compiled step moves k and k x k numbers and no weights."""
    n, k = 2**17, 8
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("model"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    w = jnp.asarray(rng.normal(size=n), jnp.float32)
    init = jnp.zeros(k, jnp.float32) if warm else None
    solver = Newton(max_iterations=2, tolerance=None) if warm else Newton()

    def step(w, q):
        def loss(w, q):
            out = soft_assign(w, q, 0.05, solver=solver, init=init)
            return jnp.sin(out.soft).sum() + out.entropy, out

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(w, q)

    compiled = jax.jit(step, in_shardings=(split, whole)).lower(w, Q).compile()
    moved = list(collectives(compiled.as_text()))
    assert moved and {kind for kind, _ in moved} == {"all-reduce"}
    assert max(size for _, size in moved) <= k * k
    (_, out), (d_w, d_q) = compiled(jax.device_put(w, split), jax.device_put(Q, whole))
    assert out.soft.sharding.is_equivalent_to(split, 1) and d_w.sharding.is_equivalent_to(split, 1)
    (_, one), (e_w, e_q) = jax.jit(step)(w, Q)
    np.testing.assert_allclose(out.soft, one.soft, atol=1e-3)
    np.testing.assert_allclose(d_w, e_w, atol=2e-2)
    np.testing.assert_allclose(d_q, e_q, rtol=1e-2, atol=1.0)


def test_solving_is_sharded_with_a_remainder_too(rng):
    """Group sizes that do not divide by the devices are computed whole, and right."""
    w = jnp.asarray(rng.normal(size=100_003), jnp.float32)
    solution = jax.jit(transport.solve)(w, Q, 0.01)
    assert bool(solution.converged)
