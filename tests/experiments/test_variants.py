"""The variations of the recipe that no field of a config describes do what their names say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.arena import variants
from experiments.arena.team import Member, Team
from experiments.config import Config
from experiments.tasks.classification import make_task
from mecq_jax.params import leaves_by_path, make_plan
from mecq_jax.quantizers import MEC

pytestmark = pytest.mark.usefixtures("standard_promotion")
CONFIG = Config(
    dataset="digits", model="norm_mlp", width=8, batch=128, train_size=800, method="lsq", soft_epochs=1, hard_epochs=0
)


@pytest.fixture(scope="module")
def task():
    return make_task(CONFIG)


def _batch(task):
    return {"image": jnp.asarray(task.dataset.train_images[:64]), "label": jnp.asarray(task.dataset.train_labels[:64])}


@pytest.mark.fast
def test_standardised_weights_are_the_same_wherever_and_however_wide_they_lie():
    w = jax.random.normal(jax.random.key(0), (32, 16))
    quantizer = variants.Standardised(k=4)
    params, state = quantizer.init(w)
    soft, _, _ = quantizer.apply(w, params, state, 0.1)
    moved, after, _ = quantizer.apply(3 * w + 0.7, params, state, 0.1)
    np.testing.assert_allclose(soft, moved, atol=1e-5)
    assert after.keys() == state.keys()
    np.testing.assert_array_equal(quantizer.codes(w, params, state), quantizer.codes(3 * w + 0.7, params, state))
    centred = w - w.mean()
    np.testing.assert_allclose(soft, MEC(k=4).apply(centred, *MEC(k=4).init(centred), 0.1)[0], atol=1e-5)


@pytest.mark.fast
def test_epsilon_by_depth_is_geometric_over_the_quantized_layers(task):
    plan = make_plan(task.params, variants.by_depth(0.25, 4.0)(task, MEC(k=4)))
    paths = [path for path in leaves_by_path(task.order) if path in plan.quantizers]
    assert [plan.quantizers[path].factor for path in paths] == pytest.approx([0.25, 1.0, 4.0])
    w = jax.random.normal(jax.random.key(0), (64,))
    params, state = MEC(k=4).init(w)
    hot = plan.quantizers[paths[-1]].apply(w, params, state, 0.05)[0]
    np.testing.assert_array_equal(hot, MEC(k=4).apply(w, params, state, 0.2)[0])


@pytest.mark.fast
def test_a_distilled_network_has_nothing_to_learn_from_itself_and_sees_no_label():
    task = make_task(dataclasses.replace(CONFIG, model="mlp"))
    own, members = variants.distilled(task, [Member(0, task.params, task.model_state)])
    batch, key = _batch(task), jax.random.key(0)
    loss, gradient = jax.value_and_grad(lambda p, b: own.loss_fn(p, members[0].model_state, b, key)[0])(
        task.params, batch
    )
    assert abs(loss) < 1e-6 and max(float(abs(x).max()) for x in jax.tree.leaves(gradient)) < 1e-6
    other = jax.tree.map(lambda x: 1.5 * x, task.params)
    found = [
        own.loss_fn(other, members[0].model_state, batch | {"label": label}, key)[0]
        for label in (batch["label"], (batch["label"] + 1) % 10)
    ]
    assert found[0] == found[1] > 1e-3


@pytest.mark.fast
def test_the_coding_length_is_of_what_the_last_layer_sees(task):
    own, _ = variants.with_coding_length(0.5)(task, [])
    usual, (state, _) = task.loss_fn(task.params, task.model_state, _batch(task), jax.random.key(0))
    loss, (own_state, scalars) = own.loss_fn(task.params, task.model_state, _batch(task), jax.random.key(0))
    np.testing.assert_allclose(loss, usual - 0.5 * scalars["coding_length"], rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, state, own_state)
    # All rows alike have the least length: (m + d)/2 log(1 + 4 d) / m for m of them in d dimensions, at distortion 0.5.
    same = _batch(task) | {"image": jnp.ones_like(_batch(task)["image"])}
    params = task.params | {"norms": jax.tree.map(lambda x: x + 0.1, task.params["norms"])}
    length = own.loss_fn(params, task.model_state, same, jax.random.key(0))[1][1]["coding_length"]
    np.testing.assert_allclose(length, (64 + 8) / 2 * np.log(1 + 4 * 8) / 64, rtol=1e-3)


def test_norms_are_estimated_again_from_training_images(task):
    config = dataclasses.replace(CONFIG, batch=50)
    team = Team(task, config, [Member(seed, task.params, task.model_state) for seed in (0, 1)])
    before = jax.tree.map(np.asarray, team.state.params)
    variants.reestimate(team)
    jax.tree.map(np.testing.assert_array_equal, before, team.state.params)
    x = np.asarray(task.inputs(task.dataset.train_images)).reshape(len(task.dataset.train_images), -1)
    ahead = x @ np.asarray(task.params["first"]["kernel"])  # the first layer stays float
    mean = team.state.model_state["norms"][0]["mean"]
    assert mean.shape == (2, 8) and bool((mean[0] != mean[1]).any()), "each by its own order of the images"
    # A running mean of momentum 0.9 over 16 batches: a share 0.9^16 of it is still the start, 0.
    np.testing.assert_allclose(mean[0], (1 - 0.9**16) * ahead.mean(axis=0), atol=0.25 * ahead.std())
