"""`fit`: a float model in, what ships out; on an NNX model and on a tree, whole and interrupted."""

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mecq_jax import MEC, Rule, fit, load, nn, save
from mecq_jax.storage import QuantizedTensor
from mecq_jax.training import Layout, Phases

pytestmark = pytest.mark.usefixtures("standard_promotion")
STEPS = 64


class Net(nnx.Module):
    """Batch norm and dropout: what a forward pass writes to and draws from."""

    def __init__(self, rngs):
        self.first = nnx.Linear(6, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.mid = nnx.Linear(16, 16, rngs=rngs)
        self.last = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.mid(self.drop(nnx.relu(self.norm(self.first(x)))))))


def batches():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 32, 6)).astype(np.float32)
    return [{"x": jnp.asarray(part), "y": jnp.asarray(np.sin(part[:, :2]))} for part in x]


def loss_fn(model, batch):
    error = model(batch["x"]) - batch["y"]
    return jnp.mean(jnp.square(error)), {"largest": jnp.abs(error).max()}


def train(**options):
    model = Net(nnx.Rngs(0))
    return model, fit(model, loss_fn, batches(), MEC(bits=2), steps=STEPS, learning_rate=1e-2, log_every=16, **options)


def test_a_module_goes_through_all_phases_and_ships(tmp_path):
    seen = []
    model, trained = train(progress=seen.append)
    assert [(p.phase, p.step) for p in seen] == [("float", 16), ("float", 32), ("soft", 48), ("hard", STEPS)]
    assert seen == trained.history and "largest" in seen[-1].metrics
    assert trained.history[-1].metrics["loss"] < trained.history[0].metrics["loss"]
    assert np.unique(np.asarray(trained.model.mid.kernel[...])).size <= 4
    assert np.unique(np.asarray(model.mid.kernel[...])).size > 4, "the model that was given stays as it was"
    save(tmp_path / "model.safetensors", trained.tensors)
    stored = load(tmp_path / "model.safetensors")
    assert isinstance(stored["mid/kernel"], QuantizedTensor) and {"norm/mean", "norm/var", "first/kernel"} < set(stored)
    dense = {n: jnp.asarray(t.dense() if isinstance(t, QuantizedTensor) else t) for n, t in stored.items()}
    trained.model.eval()
    x = batches()[0]["x"]
    np.testing.assert_allclose(nn.forward(model)(dense, x), trained.model(x), rtol=1e-5, atol=1e-6)


def test_a_tree_trains_by_the_same_call():
    params = {"a": {"kernel": jnp.eye(6, 16)}, "b": {"kernel": jnp.ones((16, 2)) / 16}}

    def of_tree(params, batch):
        hidden = jnp.tanh(batch["x"] @ params["a"]["kernel"])
        return jnp.mean(jnp.square(hidden @ params["b"]["kernel"] - batch["y"]))

    phases = Phases.of(STEPS, trained=True)
    rules = [Rule("a/kernel", MEC(bits=2))]
    trained = fit(params, of_tree, batches(), rules, steps=STEPS, phases=phases, learning_rate=1e-2)
    assert np.unique(np.asarray(trained.model["a"]["kernel"])).size <= 4
    assert set(trained.tensors) == {"a/kernel", "b/kernel"} and {p.phase for p in trained.history} <= {"soft", "hard"}


def test_an_equinox_model_trains_by_its_arrays():
    """What `eqx.partition` leaves out is None in the tree, and its static fields stay."""
    model = eqx.nn.MLP(6, 2, width_size=16, depth=2, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def of_params(params, batch):
        return jnp.mean(jnp.square(jax.vmap(eqx.combine(params, static))(batch["x"]) - batch["y"]))

    rules = [Rule("layers/1/weight", MEC(bits=2))]
    trained = fit(params, of_params, batches(), rules, steps=16, learning_rate=1e-2, log_every=1)
    assert isinstance(trained.model, eqx.nn.MLP) and jax.tree.structure(trained.model) == jax.tree.structure(params)
    assert np.unique(np.asarray(trained.model.layers[1].weight)).size <= 4
    assert set(trained.tensors) == {f"layers/{i}/{name}" for i in range(3) for name in ("weight", "bias")}
    assert isinstance(trained.tensors["layers/1/weight"], QuantizedTensor)
    assert trained.history[-1].metrics["loss"] < trained.history[0].metrics["loss"]


class Linen(linen.Module):
    """Batch norm, whose statistics are a collection apart."""

    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(16, name="first")(x))
        x = linen.Dense(16, name="mid")(linen.relu(x))
        return linen.Dense(2, name="last")(linen.relu(x))


def test_a_linen_model_carries_the_state_that_is_given():
    variables = Linen().init(jax.random.key(0), batches()[0]["x"], train=False)
    params, statistics = variables["params"], variables["batch_stats"]

    def with_state(params, statistics, batch, rng):
        given = {"params": params, "batch_stats": statistics}
        out, updated = Linen().apply(given, batch["x"], train=True, mutable=["batch_stats"])
        return jnp.mean(jnp.square(out - batch["y"])), (updated["batch_stats"], {"drawn": jax.random.uniform(rng)})

    trained = fit(params, with_state, batches(), MEC(bits=2), steps=16, model_state=statistics, log_every=1)
    assert jax.tree.structure(trained.model) == jax.tree.structure(params)
    assert isinstance(trained.tensors["mid/kernel"], QuantizedTensor) and len(trained.tensors) == 8
    assert np.abs(trained.state.model_state["BatchNorm_0"]["mean"] - statistics["BatchNorm_0"]["mean"]).max() > 0
    assert len({p.metrics["drawn"] for p in trained.history}) == 16, "every step has its random key"


class Stack(nnx.Module):
    """Layers in a list, one of them in two places."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(6, 6, rngs=rngs) for _ in range(3)])
        self.again, self.last = self.layers[1], nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        for layer in [*self.layers, self.again]:
            x = nnx.relu(layer(x))
        return self.last(x)


def test_a_layer_in_two_places_trains_and_ships_once(tmp_path):
    def error(model, batch):
        return jnp.mean(jnp.square(model(batch["x"]) - batch["y"]))

    trained = fit(Stack(nnx.Rngs(0)), error, batches(), MEC(bits=2), steps=16, checkpoints=tmp_path)
    assert trained.model.again is trained.model.layers[1]
    assert np.unique(np.asarray(trained.model.again.kernel[...])).size <= 4
    kinds = {name: isinstance(tensor, QuantizedTensor) for name, tensor in trained.tensors.items()}
    assert len(kinds) == 8 and sum(kinds.values()) == 2 and kinds["layers/2/kernel"]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("at", [20, 50])
def test_an_interrupted_fit_goes_on_to_the_same_bits(at, tmp_path):
    def stop(progress):
        if progress.step >= at:
            raise Stopped

    whole = train(checkpoints=tmp_path / "whole")[1]
    with pytest.raises(Stopped):
        fit(
            Net(nnx.Rngs(0)),
            loss_fn,
            batches(),
            MEC(bits=2),
            steps=STEPS,
            learning_rate=1e-2,
            log_every=1,
            checkpoints=tmp_path / "cut",
            progress=stop,
        )
    again = train(checkpoints=tmp_path / "cut")[1]
    for name, tensor in whole.tensors.items():
        one, other = (t.dense() if isinstance(t, QuantizedTensor) else t for t in (tensor, again.tensors[name]))
        np.testing.assert_array_equal(one, other, err_msg=name)


def test_devices_do_not_change_what_comes_out():
    layout = Layout(jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)))
    one, eight = train()[1], train(layout=layout)[1]
    np.testing.assert_allclose(eight.history[-1].metrics["loss"], one.history[-1].metrics["loss"], rtol=0.05)


def test_misuse_is_named(tmp_path):
    model = Net(nnx.Rngs(0))
    with pytest.raises(ValueError, match="add up to steps = 64"):
        fit(model, loss_fn, batches(), MEC(bits=2), steps=STEPS, phases=Phases(1, 2, 3))
    with pytest.raises(ValueError, match="at least 8"):
        fit(model, loss_fn, batches(), MEC(bits=2), steps=3)
    with pytest.raises(ValueError, match="batches ended after 8"):
        fit(model, loss_fn, iter(batches()), MEC(bits=2), steps=STEPS)
    with pytest.raises(ValueError, match="decides no leaf"):
        fit(model, loss_fn, batches(), [Rule("nothing", MEC(bits=2))], steps=STEPS)
    with pytest.raises(ValueError, match="carries its state itself"):
        fit(model, loss_fn, batches(), MEC(bits=2), steps=STEPS, model_state={})
    broken = [{"x": batch["x"] * jnp.nan, "y": batch["y"]} for batch in batches()]
    with pytest.raises(FloatingPointError, match="the loss is nan at step"):
        fit(model, loss_fn, broken, MEC(bits=2), steps=STEPS, log_every=1)
    with pytest.raises(FloatingPointError, match="at step 6 of 64"):  # no checkpoint of what diverged
        fit(model, loss_fn, broken, MEC(bits=2), steps=STEPS, checkpoints=tmp_path)
    assert not list(tmp_path.glob("*/[0-9]*"))
