"""A run on eight devices is the run on one, and moves no weights for its quantizers."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from mecq_jax.granularity import PerChannel, PerTensor, shards_back, shards_first
from mecq_jax.params import Rule, quantize_tree
from mecq_jax.quantizers import MEC
from mecq_jax.training import Layout, Split, Steps, fully_sharded, geometric_decay, optimizers

STEPS = 20
WIDTH = 64
BATCH = 2000  # with fewer examples XLA would rather move activations than weights
PARAMS = {
    "first": {"kernel": (16, WIDTH)},
    "block": {"up": {"kernel": (WIDTH, 4 * WIDTH)}, "down": {"kernel": (4 * WIDTH, WIDTH)}},
    "odd": {"kernel": (WIDTH, 63), "bias": (63,)},
    "last": {"kernel": (63, 3)},
}


def params():
    rng = np.random.default_rng(0)

    def draw(shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)

    return jax.tree.map(draw, PARAMS, is_leaf=lambda x: isinstance(x, tuple))


def loss_fn(params, model_state, batch, rng):
    x = jax.nn.relu(batch["x"] @ params["first"]["kernel"])
    x = x + jax.nn.relu(x @ params["block"]["up"]["kernel"]) @ params["block"]["down"]["kernel"]
    x = jax.nn.relu(x @ params["odd"]["kernel"] + params["odd"]["bias"][None])
    loss = optax.softmax_cross_entropy_with_integer_labels(x @ params["last"]["kernel"], batch["y"]).mean()
    return loss, (model_state, {})


def some_steps():
    return Steps(
        loss_fn=loss_fn,
        optimizer=optimizers(optax.adam(1e-3), optax.adam(1e-4)),
        temperature=geometric_decay(0.3, 0.01, STEPS),
        entropy_weight=optax.constant_schedule(0.1),
    )


def quantized(granularity):
    return quantize_tree(params(), [Rule("block/.*kernel|odd/kernel", MEC(k=4, granularity=granularity))])


def batches():
    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        yield {"x": rng.normal(size=(BATCH, 16)).astype(np.float32), "y": rng.integers(0, 3, BATCH).astype(np.int32)}


def mesh(data, model):
    return jax.make_mesh((data, model), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


TENSOR_PARALLEL = [
    Split("block/up/kernel", (None, "model")),
    Split("block/down/kernel", ("model",)),
    Split("odd/kernel", ("model",)),
    Split("first/kernel", (None, "model")),
]
LAYOUTS = {
    "data parallel": lambda: Layout(mesh(8, 1)),
    "fully sharded": lambda: Layout(mesh(8, 1), fully_sharded(params(), mesh(8, 1), least=1000)),
    "tensor parallel": lambda: Layout(mesh(1, 8), TENSOR_PARALLEL),
    "both": lambda: Layout(mesh(2, 4), [Split("block/up/kernel", ("data", "model")), *TENSOR_PARALLEL[1:]]),
}


COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-to-all|collective-permute)(?:-start)?\(")


def gathered(compiled):
    """The collectives that move whole parts of weights, (kind, size of the largest array), in compiled HLO."""
    parts = {size // n for size in (4 * WIDTH * WIDTH, 63 * WIDTH) for n in (1, 2, 4, 8)}
    found = []
    for shape, kind in COLLECTIVE.findall(compiled.as_text()):
        sizes = [np.prod([int(d) for d in dims.split(",") if d]) for dims in re.findall(r"\[([\d,]*)\]", shape)]
        found += [(kind, int(max(sizes)))] if sizes and max(sizes) in parts else []
    return sorted(found)


def train_for_a_while(layout, granularity):
    """Losses of every step, the states before and after, and what the soft and the float step gather of weights."""
    start, train = quantized(granularity), some_steps()
    start = start if layout is None else layout.split(start, params())
    state = train.init(params(), start, {}, jax.random.key(0))
    every = list(batches())
    if layout is None:
        soft, plain = jax.jit(train.soft_step), jax.jit(train.float_step)
    else:
        state, every = layout.place(state), [layout.batch(batch) for batch in every]
        soft, plain = (layout.jit(step, state) for step in (train.soft_step, train.float_step))
    step, plain = (f.lower(state, every[0]).compile() for f in (soft, plain))
    before, found = jax.tree.map(lambda x: x.sharding, state), []
    for batch in every:
        state, metrics = step(state, batch)
        found.append(float(metrics.loss))
    return np.array(found), before, state, (gathered(step), gathered(plain))


@pytest.fixture(scope="module")
def alone():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return {g: train_for_a_while(None, g) for g in (PerTensor(), PerChannel())}


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    "name, granularity",
    [*((name, PerTensor()) for name in LAYOUTS), ("tensor parallel", PerChannel()), ("both", PerChannel())],
    ids=str,
)
def test_eight_devices_do_what_one_does_and_move_no_weights_to_quantize(name, granularity, alone):
    found, before, state, (soft, plain) = train_for_a_while(LAYOUTS[name](), granularity)
    expected, _, end, _ = alone[granularity]
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    assert expected[-1] < expected[0]
    stays = jax.tree.map(lambda s, x: s.is_equivalent_to(x.sharding, x.ndim), before, state)
    assert all(jax.tree.leaves(stays))
    same = [
        np.mean(np.asarray(state.quantized.codes[p]) == np.asarray(end.quantized.codes[p])) for p in end.quantized.codes
    ]
    assert min(same) > 0.98, "codes are in one order, however the weights are split"
    assert soft == plain and bool(plain) == (name in ("fully sharded", "both")), "the network's own gathering alone"


@pytest.mark.usefixtures("standard_promotion")
def test_a_transformer_is_split_by_heads(rng):
    from flax import nnx

    from experiments.models.small import TENSOR_PARALLEL, ViT

    model = ViT(1, 8, 10, 32, nnx.Rngs(0), depth=1, heads=4)
    graphdef, weights, rest = nnx.split(model, nnx.Param, ...)
    weights, rest = nnx.to_pure_dict(weights), nnx.to_pure_dict(rest)

    def loss_fn(params, model_state, batch, rng):
        logits = nnx.merge(graphdef, nnx.State(params), nnx.State(model_state))(batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), (model_state, {})

    batch = {"x": rng.normal(size=(8, 8, 8, 1)).astype(np.float32), "y": np.arange(8, dtype=np.int32)}
    found = []
    for layout in (None, Layout(mesh(2, 4), TENSOR_PARALLEL)):
        start = quantize_tree(weights, [Rule("blocks/.*(query|out|up)/kernel", MEC(k=4))])
        start = start if layout is None else layout.split(start, weights)
        train = dataclasses.replace(some_steps(), loss_fn=loss_fn)
        state = train.init(jax.tree.map(jnp.copy, weights), start, rest, jax.random.key(0))
        step, given = jax.jit(train.soft_step), batch
        if layout is not None:
            state, given = layout.place(state), layout.batch(batch)
            query = state.params["blocks"][0]["attention"]["query"]["kernel"]
            assert query.sharding.spec == PartitionSpec(None, "model")
            step = layout.jit(train.soft_step, state)
        for _ in range(3):
            state, metrics = step(state, given)
        found.append(float(metrics.loss))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3)


def test_parts_come_first_and_go_back(rng):
    x = jnp.asarray(rng.normal(size=(4, 6, 10)))
    for shards in ((1, 1, 1), (2, 1, 5), (1, 3, 1), (4, 6, 10)):
        first = shards_first(x, shards)
        np.testing.assert_array_equal(shards_back(first.reshape(-1), x.shape, shards), x)
    np.testing.assert_array_equal(shards_first(x, (1, 1, 2))[0, 0, 1], x[:, :, 5:])


def test_rules_that_do_not_fit_are_refused():
    for rule, message in (
        (Split("nothing", ("model",)), "matches no leaf"),
        (Split("odd/bias", ("data", "model")), "has 1 dimensions"),
        (Split("odd/kernel", (None, "model")), "63 of odd/kernel does not split over the 8 devices"),
        (Split("odd/bias", ("x",)), r"not \['x'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            Layout(mesh(1, 8), [rule]).specs(params())
    with pytest.raises(ValueError, match="a batch of 12 does not split over 8"):
        Layout(mesh(8, 1)).batch({"x": np.zeros((12, 2))})


def test_large_leaves_are_split_along_their_longest_dimension():
    specs = Layout(mesh(8, 1), fully_sharded(params(), mesh(8, 1), least=5000)).specs(params())
    assert specs["block/up/kernel"] == PartitionSpec(None, "data")
    assert specs["block/down/kernel"] == PartitionSpec("data")
    assert specs["last/kernel"] == specs["odd/kernel"] == PartitionSpec()
