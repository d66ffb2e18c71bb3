"""Networks on an integer grid have one answer, whoever computes it."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from mecq_jax import export, inference, nn
from mecq_jax.export._integer_grid import _ranges
from mecq_jax.granularity import PerChannel, PerTensor
from mecq_jax.nn import quantize
from mecq_jax.params import Rule
from mecq_jax.quantizers import MEC
from mecq_jax.storage import QuantizedTensor

pytestmark = pytest.mark.fast
floats = st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(floats, min_size=1, max_size=8))
def test_the_unit_is_the_largest_power_of_two_that_divides_all(values):
    unit = Fraction(_ranges.unit_of(np.float32(values)))
    wholes = [Fraction(x) / unit for x in values]
    assert all(w.denominator == 1 for w in wholes)
    assert not any(wholes) or any(w.numerator % 2 for w in wholes)


@settings(max_examples=100, deadline=None)
@given(st.lists(floats, min_size=1, max_size=8), st.integers(1, 4095))
def test_shortened_numbers_are_few_steps_and_near(values, largest):
    found = _ranges.range_of(_ranges.shortened(np.float32(values), largest))
    assert found.size <= largest
    top = np.max(np.abs(values))
    assert np.max(np.abs(_ranges.shortened(np.float32(values), largest) - np.float32(values))) <= top / largest + 1e-9


@settings(max_examples=100, deadline=None)
@given(st.lists(floats, min_size=1, max_size=8), st.sampled_from([1, 7, 127]))
def test_roundings_reach_all_values_in_few_steps(values, largest):
    x = np.float32(values)
    found = _ranges.Range(2.0**-20, 0.0 if x.min() >= 0 else -2e6, 2e6)
    step = _ranges.rounding(found, x, largest)
    y = np.asarray(step(jnp.asarray(x)))
    assert step.range.size <= 2 * largest + (x.min() >= 0)
    assert np.max(np.abs(y - x)) <= step.step / 2 and (_ranges.unit_of(y) >= step.step or not y.any())


def answers(grid, x):
    """What JAX, ONNX Runtime and ONNX's own evaluator in NumPy compute."""
    arrays = inference.dense(inference.to_device(grid.tensors))
    model = export.onnx_model(grid.forward, grid.tensors, x)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return {
        "jax": np.asarray(grid.forward(arrays, jnp.asarray(x))),
        "jit": np.asarray(jax.jit(grid.forward)(arrays, x)),
        "onnxruntime": session.run(None, {"input": x})[0],
        "numpy": ReferenceEvaluator(model).run(None, {"input": x})[0],
    }


def assert_one_answer(grid, x):
    found = answers(grid, x)
    for where, y in found.items():
        np.testing.assert_array_equal(y, found["jax"], err_msg=where)
    return found["jax"]


W = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
FUNCTIONS = {
    "affine": lambda x: (x - 0.37) * jnp.asarray(W[:1])[None] / 3.0 + jnp.asarray(W[1:2])[None],
    "relu, relu6, clip": lambda x: jax.nn.relu(x) + jax.nn.relu6(3.0 * x) - jnp.clip(x, -0.5, 0.7),
    "abs, negative, square": lambda x: jnp.abs(x) - (-x) + jnp.square(x) + x**2,
    "products of activations": lambda x: x * jax.nn.relu(x) + jnp.maximum(x, 0.3 * x) - jnp.minimum(x, 1.0 - x),
    "joins and cuts": lambda x: jnp.concatenate([x[:, :1], jnp.pad(x, ((0, 0), (1, 0), (0, 0)))], axis=1)[..., ::2],
    "sums, means, maxima": lambda x: x.sum(axis=1) + x.mean(axis=1) + x.max(axis=1),
    "hard swish": jax.nn.hard_swish,
    "matrices of activations": lambda x: jnp.einsum("bij,bkj->bik", x, x),
    "float kernel": lambda x: x @ jnp.asarray(W.T @ W),
    "kernel first": lambda x: jnp.einsum("kj,bij->bik", jnp.asarray(W), x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operators_have_one_answer_near_the_float_one(name, rng):
    def forward(_, x):
        return FUNCTIONS[name](x)

    x = rng.normal(size=(6, 3, 5)).astype(np.float32)
    y = assert_one_answer(export.integer_grid(forward, {}, x), x)
    expected = np.asarray(FUNCTIONS[name](jnp.asarray(x)))
    assert np.max(np.abs(y - expected)) < 0.03 * np.max(np.abs(expected))


class Net(nnx.Module):
    """Convolutions, depthwise too, batch norms, a shortcut, pooling and a head of float weights."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(2, 8, (3, 3), rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), strides=2, feature_group_count=8, use_bias=False, rngs=rngs)
        self.pointwise = nnx.Conv(8, 8, (1, 1), use_bias=False, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(8, rngs=rngs) for _ in range(3)])
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = (x.astype(jnp.float32) / 255.0 - 0.4) / 0.3
        x = nnx.relu(self.norms[0](self.stem(x)))
        y = self.norms[2](self.pointwise(nnx.relu(self.norms[1](self.depthwise(x)))))
        x = nnx.relu(y + nnx.avg_pool(x, (2, 2), strides=(2, 2)))
        return self.head(nnx.max_pool(x, (2, 2), strides=(2, 2)).mean(axis=(1, 2)))


def network(granularity):
    model, _ = quantize(Net(nnx.Rngs(0)), [Rule("(depthwise|pointwise)/kernel", MEC(k=4, granularity=granularity))])
    rng = np.random.default_rng(3)
    for norm in model.norms:
        norm.mean.set_value(jnp.asarray(rng.normal(size=8), jnp.float32))
        norm.var.set_value(jnp.asarray(rng.uniform(0.1, 3, 8), jnp.float32))
    return nn.forward(model), nn.harden(model)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel()], ids=str)
def test_a_network_has_one_answer_for_any_input(granularity, rng):
    forward, tensors = network(granularity)
    images = rng.integers(0, 256, (16, 12, 12, 2), dtype=np.uint8)
    grid = export.integer_grid(forward, tensors, images)
    assert grid.largest <= 2**24
    y = assert_one_answer(grid, images)
    expected = np.asarray(forward(inference.dense(inference.to_device(tensors)), images))
    assert np.max(np.abs(y - expected)) < 0.05 * np.max(np.abs(expected))
    # The bound holds for inputs that are not like those that set the ranges: all black, all white, a chessboard.
    board = 255 * (np.indices((12, 12)).sum(axis=0) % 2)[None, :, :, None].repeat(2, axis=3)
    assert_one_answer(grid, np.concatenate([0 * board, 0 * board + 255, board]).astype(np.uint8))


def test_levels_are_small_integers_times_a_power_of_two(rng):
    levels = np.sort(rng.normal(size=(6, 4)) * 10.0 ** rng.integers(-3, 3, (6, 1)), axis=1).astype(np.float32)
    tensor = QuantizedTensor(rng.integers(0, 4, (6, 9), dtype=np.uint8), levels, (9, 6), PerChannel())
    for bits in (2, 4, 8):
        found = export.snap(tensor, bits)
        for group, row in zip(levels, found.levels, strict=True):
            assert _ranges.range_of(row).size <= 2 ** (bits - 1) - 1
            assert np.max(np.abs(row - group)) <= np.max(np.abs(group)) / (2 ** (bits - 1) - 1)
        assert found.codes is tensor.codes


REFUSED = {
    "exp of activations.*export the network as it is.*at .*test_integer_grid.py": lambda x: jax.nn.softmax(x),
    "rsqrt of activations": lambda x: x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-6),
    "a division by activations": lambda x: 1.0 / (1.0 + jnp.abs(x)),
    "to the power 3": lambda x: x**3,
    "over 9 places": lambda x: nnx.avg_pool(x[..., None], (3, 3), padding="SAME"),
    "activations to float16": lambda x: x.astype(jnp.float16),
    "a sum can reach .* units": lambda x: x @ jnp.ones((5, 200_000)) @ jnp.ones((200_000, 1)),
}


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("message", REFUSED)
def test_what_has_no_one_answer_is_refused(message, rng):
    with pytest.raises(export.InexactError, match=message):
        export.integer_grid(lambda _, x: REFUSED[message](x), {}, rng.normal(size=(6, 5, 5)).astype(np.float32))


def test_another_course_is_refused(rng):
    def forward(_, x):
        return x * 2.0 if x.shape[1] == 5 else x + 1.0

    x = rng.normal(size=(6, 5)).astype(np.float32)
    with pytest.raises(export.InexactError, match="takes another course"):
        export.integer_grid(forward, {}, x).forward({}, jnp.asarray(x[:, :4]))


def test_bits_out_of_bounds_are_refused():
    for bits in (1, 9):
        with pytest.raises(ValueError, match=f"level_bits = {bits} must be 2 to 8"):
            export.integer_grid(lambda _, x: x, {}, np.zeros((1, 1), np.float32), level_bits=bits)
        with pytest.raises(ValueError, match=f"activation_bits = {bits} must be 2 to 8"):
            export.integer_grid(lambda _, x: x, {}, np.zeros((1, 1), np.float32), activation_bits=bits)


@pytest.mark.usefixtures("standard_promotion")
def test_an_export_asks_for_equal_bits_and_keeps_weights_packed(tmp_path, rng):
    forward, tensors = network(PerChannel())
    images = rng.integers(0, 256, (16, 12, 12, 2), dtype=np.uint8)
    grid = export.integer_grid(forward, tensors, images)
    export.onnx(tmp_path / "m.onnx", grid.forward, grid.tensors, images, tolerance=0.0)
    export.stablehlo(tmp_path / "m.stablehlo", grid.forward, grid.tensors, images, tolerance=0.0)
    stored = onnx.load(tmp_path / "m.onnx").graph.initializer
    codes = sum(len(x.raw_data) for x in stored if x.data_type == onnx.TensorProto.UINT8)
    assert codes == sum(t.codes.size // 4 for t in tensors.values() if isinstance(t, QuantizedTensor))
