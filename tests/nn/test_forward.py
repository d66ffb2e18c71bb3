"""A model as a function of the arrays that it ships, and layers that occur in several places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mecq_jax import nn
from mecq_jax.nn import quantize
from mecq_jax.params import Rule
from mecq_jax.quantizers import MEC

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("standard_promotion")]


class Net(nnx.Module):
    """Convolutions, batch norm, dropout and attention: what differs in evaluation, and what holds several kernels."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.dilated = nnx.Conv(8, 12, (3, 3), kernel_dilation=2, padding="VALID", rngs=rngs)
        self.norm, self.drop = nnx.BatchNorm(8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(3, 12, decode=False, rngs=rngs)
        self.head = nnx.Linear(12, 5, rngs=rngs)

    def __call__(self, x):
        x = self.dilated(self.drop(nnx.relu(self.norm(self.stem(x)))))
        return self.head(self.attention(x.reshape(x.shape[0], -1, 12)).mean(axis=1))


def test_the_function_of_a_model_is_the_model(rng):
    model = Net(nnx.Rngs(0))
    forward, arrays = nn.forward(model), nn.harden(model)
    assert "norm/mean" in arrays
    x = jnp.asarray(rng.normal(size=(2, 12, 12, 3)), jnp.float32)
    evaluated = nnx.view(model, use_running_average=True, deterministic=True, raise_if_not_found=False)
    np.testing.assert_array_equal(forward(arrays, x), evaluated(x))
    quantized, _ = quantize(model, [Rule("(stem|dilated|head)/kernel", MEC(k=4))])
    np.testing.assert_array_equal(nn.forward(quantized)(arrays, x), evaluated(x))
    assert set(nn.harden(quantized)) == set(arrays)
    moved = {name: array + 0.1 for name, array in arrays.items()}
    changed = nnx.clone(evaluated)
    nnx.update(changed, jax.tree.map(lambda x: x + 0.1, nnx.state(changed, (nnx.Param, nnx.BatchStat))))
    np.testing.assert_array_equal(nn.forward(quantized)(moved, x), changed(x))
    with pytest.raises(ValueError, match=r"'params/stem/kernel' of shape .* no such name, but .*stem/kernel"):
        forward({"params/stem/kernel": arrays["stem/kernel"]}, x)
    with pytest.raises(ValueError, match=r"the model has \(8,\)"):
        forward({"norm/mean": jnp.zeros(9)}, x)


def test_a_layer_alone_ships_its_kernel():
    layer = nn.QuantDense(8, 4, quantizer=MEC(k=4), rngs=nnx.Rngs(0))
    assert set(nn.harden(layer)) == {"kernel", "bias"}


class Shared(nnx.Module):
    """One layer in two places."""

    def __init__(self, rngs):
        self.first = nnx.Linear(4, 4, rngs=rngs)
        self.again, self.last = self.first, nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.last(self.again(self.first(x)))


def test_a_layer_in_two_places_is_quantized_in_both_and_ships_once(rng):
    model = Shared(nnx.Rngs(0))
    names = {"again/kernel", "again/bias", "last/kernel", "last/bias"}
    assert set(nn.parameters_by_path(model)) == names
    assert set(nn.parameters_by_path(model, every_name=True)) == names | {"first/kernel", "first/bias"}
    quantized, _ = quantize(model, [Rule("again/kernel", MEC(bits=1))])
    assert quantized.first is quantized.again and isinstance(quantized.first, nn.QuantDense)
    assert type(model.first) is nnx.Linear
    nn.freeze(quantized, 0.01)
    tensors = nn.harden(quantized)
    assert set(tensors) == names
    dense = {name: t.dense() if name == "again/kernel" else t for name, t in tensors.items()}
    x = jnp.asarray(rng.normal(size=(2, 4)), jnp.float32)
    np.testing.assert_allclose(nn.forward(model)(dense, x), quantized(x), rtol=1e-6, atol=1e-6)
    nn.forward(model)(dense | {"first/bias": dense["again/bias"]}, x)  # older files hold it by every name
