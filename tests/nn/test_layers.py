"""QuantDense and QuantConv against the Flax layers that they extend."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mecq_jax import nn
from mecq_jax.granularity import PerChannel
from mecq_jax.nn import QuantConv, QuantDense, quantize
from mecq_jax.params import Rule
from mecq_jax.quantizers import MEC
from mecq_jax.quantizers.baselines import LSQ
from mecq_jax.storage import QuantizedTensor

pytestmark = pytest.mark.fast


class Net(nnx.Module):
    """Convolutions with the options that matter, batch norm, dense layers."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        options = {"strides": 2, "feature_group_count": 2, "rngs": rngs}
        self.blocks = nnx.List([nnx.Conv(8, 8, (3, 3), **options) for _ in range(2)])
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.mid = nnx.Linear(8, 16, rngs=rngs)
        self.head = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = nnx.relu(block(x))
        return self.head(nnx.relu(self.mid(self.norm(x).mean(axis=(1, 2)))))


def soft_kernel(layer):
    return layer.quantized().soft({"kernel": layer.kernel[...]}, layer.temperature[...])[0]["kernel"]


def test_dense_is_linear_on_soft_weights(rng):
    plain = nnx.Linear(12, 7, rngs=nnx.Rngs(3))
    quant = QuantDense(12, 7, quantizer=MEC(), rngs=nnx.Rngs(3))
    np.testing.assert_array_equal(plain.kernel[...], quant.kernel[...])
    x = jnp.asarray(rng.normal(size=(5, 12)), jnp.float32)
    expected = x @ soft_kernel(quant) + quant.bias[...][None]
    np.testing.assert_allclose(quant(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"strides": 2, "padding": "VALID"},
        {"feature_group_count": 2},
        {"kernel_dilation": 2, "use_bias": False},
        {"padding": "CIRCULAR"},
        {"dtype": jnp.bfloat16},
    ],
)
def test_conv_is_conv_on_soft_weights(options, rng):
    plain = nnx.Conv(4, 6, (3, 3), rngs=nnx.Rngs(1), **options)
    quant = QuantConv(4, 6, (3, 3), quantizer=MEC(k=3), rngs=nnx.Rngs(1), **options)
    np.testing.assert_array_equal(plain.kernel[...], quant.kernel[...])
    plain.kernel.set_value(soft_kernel(quant))
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 4)), jnp.float32)
    out = quant(x)
    assert out.dtype == plain(x).dtype
    atol = 1e-2 if "dtype" in options else 1e-5
    np.testing.assert_allclose(out.astype(jnp.float32), plain(x).astype(jnp.float32), atol=atol)


def test_quantize_keeps_weights_paths_and_leaves_the_model_alone():
    model = Net(nnx.Rngs(0))
    quant, plan = quantize(model, MEC())
    assert list(plan.quantizers) == ["blocks/0/kernel", "blocks/1/kernel", "mid/kernel"]
    assert plan.skipped["stem/kernel"] == "first layer" and plan.skipped["head/kernel"] == "last layer"
    assert type(quant.mid) is QuantDense and type(quant.blocks[1]) is QuantConv and type(quant.stem) is nnx.Conv
    assert type(model.mid) is nnx.Linear
    before = nn.parameters_by_path(model)
    after = {p: v for p, v in nn.parameters_by_path(quant).items() if "/levels/" not in p}
    assert set(before) == set(after)
    for path in before:
        np.testing.assert_array_equal(before[path], after[path])


@pytest.mark.parametrize("quantizer", [MEC(granularity=PerChannel()), MEC(gradient="implicit"), LSQ()], ids=str)
def test_training_moves_levels_and_hardens(quantizer, rng):
    model, _ = quantize(Net(nnx.Rngs(0)), quantizer)
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    x = jnp.asarray(rng.normal(size=(8, 8, 8, 1)), jnp.float32)
    first = {n: np.array(v[...]) for n, v in model.mid.levels.items()}

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            return jnp.mean(jnp.square(model(x) - 1.0)) + 0.1 * nn.entropy(model)

        value, grads = nnx.value_and_grad(loss)(model)
        with jax.numpy_dtype_promotion("standard"):  # optax's bias correction mixes int and float
            optimizer.update(model, grads)
        return value

    nn.set_temperature(model, 0.1)
    losses = [float(step(model, optimizer)) for _ in range(20)]
    assert losses[-1] < losses[0]
    for name, value in first.items():
        assert not np.array_equal(value, model.mid.levels[name][...])
    hard = nn.harden(model)
    assert isinstance(hard["mid/kernel"], QuantizedTensor) and "mid/bias" in hard
    assert not any("levels" in path for path in hard)


def test_rules_that_pick_what_is_no_layer_kernel_are_refused():
    with pytest.raises(ValueError, match="decides no leaf"):
        quantize(Net(nnx.Rngs(0)), [Rule("nothing/.*", MEC())])
    with pytest.raises(ValueError, match="not the kernel"):
        quantize(Net(nnx.Rngs(0)), [Rule("norm/scale", MEC())])


def test_entropy_without_quantized_layers_is_an_error():
    with pytest.raises(ValueError, match="quantize"):
        nn.entropy(Net(nnx.Rngs(0)))


def test_vmap_over_epsilon(rng):
    """A study of many epsilons in one call: the layer is a pytree."""
    layer = QuantDense(6, 4, quantizer=MEC(), rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(layer)
    x = jnp.asarray(rng.normal(size=(3, 6)), jnp.float32)

    def forward(epsilon):
        layer = nnx.merge(graphdef, state, copy=True)
        layer.temperature.set_value(epsilon)
        return layer(x)

    out = jax.vmap(forward)(jnp.asarray([0.01, 0.1, 1.0], jnp.float32))
    assert out.shape == (3, 3, 4) and bool(jnp.isfinite(out).all())


def test_the_hard_phase_computes_what_ships(rng):
    """After `freeze` the forward pass is the file's, levels train and codes stay; and both roads write one file."""
    model, plan = quantize(Net(nnx.Rngs(0)), MEC(bits=2, granularity=PerChannel()))
    x = jnp.asarray(rng.normal(size=(4, 8, 8, 1)), jnp.float32)
    nn.set_temperature(model, 0.05)
    model(x)
    nn.freeze(model, 0.05)
    first = nn.harden(model)
    optimizer = nnx.Optimizer(model, optax.sgd(0.05), wrt=nnx.Param)
    with jax.numpy_dtype_promotion("standard"):
        grads = nnx.grad(lambda model: jnp.mean(jnp.square(model(x))))(model)
        optimizer.update(model, grads)
    tensors = nn.harden(model)
    for path in plan.quantizers:
        np.testing.assert_array_equal(tensors[path].codes, first[path].codes)
        assert not np.array_equal(tensors[path].levels, first[path].levels)
    model.eval()
    dense = {n: jnp.asarray(t.dense() if isinstance(t, QuantizedTensor) else t) for n, t in tensors.items()}
    np.testing.assert_allclose(model(x), nn.forward(model)(dense, x), rtol=1e-5, atol=1e-6)
    params = {p: v for p, v in nn.parameters_by_path(model).items() if "/levels/" not in p}
    by_tree = nn.quantized_of(model).to_tensors(params)
    assert set(by_tree) == {name for name in tensors if name.rpartition("/")[2] not in ("mean", "var")}
    for path in plan.quantizers:
        np.testing.assert_array_equal(by_tree[path].dense(), tensors[path].dense())


def test_freezing_a_float_model_is_an_error():
    with pytest.raises(ValueError, match="no quantized layer"):
        nn.freeze(Net(nnx.Rngs(0)))
