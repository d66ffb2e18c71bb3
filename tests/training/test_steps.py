"""The three steps on a small regression, one device and eight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mecq_jax import training
from mecq_jax.params import Rule, leaves_by_path, quantize_tree
from mecq_jax.quantizers import MEC


def loss_fn(params, model_state, batch, rng):
    hidden = jnp.tanh(batch["x"] @ params["a"]["kernel"])
    error = hidden @ params["b"]["kernel"] - batch["y"]
    mean = 0.9 * model_state["mean"] + 0.1 * hidden.mean(axis=0)
    return jnp.mean(jnp.square(error)), ({"mean": mean}, {"largest": jnp.abs(error).max()})


@pytest.fixture
def setup(rng):
    params = {
        "a": {"kernel": jnp.asarray(rng.normal(size=(6, 16)) * 0.4, jnp.float32)},
        "b": {"kernel": jnp.asarray(rng.normal(size=(16, 2)) * 0.3, jnp.float32)},
    }
    x = rng.normal(size=(64, 6)).astype(np.float32)
    batch = {"x": jnp.asarray(x), "y": jnp.asarray(np.sin(x[:, :2]))}
    quantized = quantize_tree(params, [Rule("a/kernel", MEC(k=4))])
    steps = training.Steps(
        loss_fn=loss_fn,
        optimizer=training.optimizers(optax.sgd(0.1, momentum=0.9), optax.sgd(0.01)),
        temperature=training.geometric_decay(0.3, 0.01, 40),
        entropy_weight=optax.constant_schedule(0.01),
    )
    state = steps.init(params, quantized, {"mean": jnp.zeros(16, jnp.float32)}, jax.random.key(0))
    return steps, state, batch


pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_soft_then_hard(setup):
    steps, state, batch = setup
    soft, hard = jax.jit(steps.soft_step), jax.jit(steps.hard_step)
    losses = []
    for _ in range(40):
        state, metrics = soft(state, batch)
        losses.append(float(metrics.task))
    assert losses[-1] < 0.7 * losses[0]
    assert 0 <= float(metrics.flips) <= 1 and float(metrics.marginal_error) < 0.05 and float(metrics.entropy) < 1
    np.testing.assert_allclose(metrics.temperature, 0.01, rtol=1e-4)

    state = jax.jit(steps.refresh_codes)(state)
    frozen, weights, levels = (
        state.quantized.codes["a/kernel"],
        state.params["a"]["kernel"],
        state.quantized.parameters["a/kernel"]["levels"],
    )
    for _ in range(20):
        state, metrics = hard(state, batch)
    np.testing.assert_array_equal(state.quantized.codes["a/kernel"], frozen)
    np.testing.assert_array_equal(state.params["a"]["kernel"], weights)
    assert not np.array_equal(state.quantized.parameters["a/kernel"]["levels"], levels)
    used = leaves_by_path(steps.hard_params(state))["a/kernel"]
    assert len(np.unique(np.asarray(used))) <= 4
    np.testing.assert_allclose(
        loss_fn(steps.hard_params(state), state.model_state, batch, None)[0], metrics.task, rtol=0.2
    )


def test_float_step_leaves_levels_alone(setup):
    steps, state, batch = setup
    new, metrics = jax.jit(steps.float_step)(state, batch)
    np.testing.assert_array_equal(
        new.quantized.parameters["a/kernel"]["levels"], state.quantized.parameters["a/kernel"]["levels"]
    )
    assert not np.array_equal(new.params["a"]["kernel"], state.params["a"]["kernel"])
    np.testing.assert_allclose(metrics.loss, metrics.task)


def test_reestimate_moves_the_statistics_alone(setup):
    steps, state, batch = setup
    hard = steps.hard_params(state)
    moved = training.reestimate_batch_stats(loss_fn, hard, state.model_state, [batch] * 100, jax.random.key(1))
    hidden = jnp.tanh(batch["x"] @ hard["a"]["kernel"])
    np.testing.assert_allclose(moved["mean"], hidden.mean(axis=0), atol=1e-4)


def test_schedules():
    epsilon = training.geometric_decay(0.3, 0.003, 100, hold=0.5)
    got = [epsilon(step) for step in (0, 25, 50, 99)]
    np.testing.assert_allclose(got, [0.3, 0.03, 0.003, 0.003], rtol=1e-4)
    with pytest.raises(ValueError, match="above 0"):
        training.geometric_decay(0.3, 0.0, 10)
    with pytest.raises(ValueError, match="hold"):
        training.geometric_decay(0.3, 0.1, 10, hold=0.0)
