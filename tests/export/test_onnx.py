"""ONNX files compute what JAX computes, in a runtime that knows nothing of this library."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx

from mecq_jax import export, inference, nn
from mecq_jax.export import UnsupportedError, onnx_packed_bytes
from mecq_jax.export._onnx._weights import byte_table, to_bytes
from mecq_jax.granularity import PerBlock, PerChannel, PerTensor, group_shape
from mecq_jax.nn import quantize
from mecq_jax.params import Rule, leaves_by_path, quantize_tree, replace_leaves
from mecq_jax.quantizers import MEC
from mecq_jax.quantizers.baselines import LSQ
from mecq_jax.storage import QuantizedTensor, pack

pytestmark = pytest.mark.fast
GRANULARITIES = [PerTensor(), PerChannel(-1), PerChannel(0), PerBlock(3, -1), PerBlock(7, 0)]


def hard(rng, shape=(9, 7), k=4, granularity=PerTensor(), dtype="float32"):  # noqa: B008 (a frozen value)
    g, n = group_shape(shape, granularity)
    codes, levels = rng.integers(0, k, (g, n), dtype=np.uint8), np.sort(rng.normal(size=(g, k)), axis=1)
    return QuantizedTensor(codes, levels.astype(np.float32), shape, granularity, dtype)


def answer(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": np.asarray(x)})[0]


@pytest.mark.parametrize("base", [2, 3, 4, 16])
def test_bytes_hold_digits(base, rng):
    codes = rng.integers(0, base, 101, dtype=np.uint8)
    data = to_bytes(codes, base)
    np.testing.assert_array_equal(byte_table(base)[data].reshape(-1)[:101], codes)
    assert data.size == -(-101 // {2: 8, 3: 5, 4: 4, 16: 2}[base])
    if base != 3:
        np.testing.assert_array_equal(data, pack(codes, base.bit_length() - 1))


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("k", [2, 3, 4, 5, 8, 12, 16])
def test_onnx_weights_are_the_dense_ones_and_stay_packed(k, granularity, rng):
    tensor = hard(rng, k=k, granularity=granularity)
    model = export.onnx_model(lambda arrays, x: x @ arrays["w"], {"w": tensor}, np.eye(9, dtype=np.float32))
    np.testing.assert_array_equal(answer(model, np.eye(9, dtype=np.float32)), tensor.dense())
    stored = [x for x in model.graph.initializer if x.data_type == onnx.TensorProto.UINT8]
    assert sum(len(x.raw_data) for x in stored) == onnx_packed_bytes(tensor)
    kinds = {node.op_type for node in model.graph.node}
    assert kinds <= {"Cast", "Gather", "Slice", "Add", "Reshape", "Transpose", "MatMul", "Identity"}
    assert model.ir_version == 8 and [(x.domain, x.version) for x in model.opset_import] == [("", 13)]
    assert not model.graph.value_info


def test_equal_tables_are_stored_once(rng):
    tensors = {f"w{i}": hard(rng, k=8, granularity=PerChannel(), shape=(8, 8)) for i in range(6)}
    x = np.eye(8, dtype=np.float32)
    model = export.onnx_model(lambda arrays, x: sum(x @ w for w in arrays.values()), tensors, x)
    tables = [x for x in model.graph.initializer if x.dims and x.dims[0] == 256]
    assert len(tables) == 2, "one for each plane, whatever the number of layers"


X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4)
FUNCTIONS = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "exact gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu, softplus, elu": lambda x: jax.nn.silu(x) + jax.nn.softplus(x) + jax.nn.elu(x),
    "hard swish, clip": lambda x: jax.nn.hard_swish(x) + jnp.clip(x, -0.5, 0.7),
    "softmax": lambda x: jax.nn.softmax(x, axis=1),
    "log softmax": jax.nn.log_softmax,
    "norm": lambda x: (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5),
    "powers": lambda x: x**2 + x**3 + jnp.sqrt(jnp.abs(x)) + jnp.square(x) + jnp.power(jnp.abs(x) + 1.0, 0.3),
    "exponentials": lambda x: jnp.expm1(x) + jnp.log1p(jnp.abs(x)) + jax.scipy.special.erfc(x) + jnp.tanh(x),
    "rounds": lambda x: jnp.fmod(x, 0.7) + jnp.mod(x, 0.7) + jnp.floor(x) + jnp.ceil(x) + jnp.round(x) + jnp.sign(x),
    "compare": lambda x: jnp.where((x > 0.5) | ((x < -1) & (x != -2.0)), x, -x) + (x >= 0).astype(jnp.float32),
    "shapes": lambda x: jnp.transpose(x.reshape(x.shape[0], 12)[:, None].reshape(x.shape[0], 4, 3), (0, 2, 1))[:, ::2],
    "joins": lambda x: jnp.concatenate([x[:, :1] * 2.0, x, jnp.ones_like(x[:, :2])], axis=1),
    "pads": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1)), constant_values=0.5),
    "splits": lambda x: jnp.split(x, 2, axis=2)[1] - jnp.split(x, 2, axis=2)[0],
    "sums": lambda x: x.sum(axis=(1, 2)) + x.max(axis=2).min(axis=1),
    "argmax": lambda x: jnp.argmax(x, axis=2).astype(jnp.float32),
    "rows of a table": lambda x: jnp.asarray(np.arange(12, dtype=np.float32).reshape(6, 2))[
        jnp.round(x + 2.0).astype(jnp.int32)
    ],
    "batched products": lambda x: jnp.einsum("bij,bkj->bik", x, 2.0 * x),
    "products over two axes": lambda x: jnp.einsum("bij,ijk->bk", x, jnp.asarray(X[:1].repeat(3, 0).reshape(3, 4, 3))),
    "class token": lambda x: jnp.concatenate([jnp.broadcast_to(jnp.asarray(X[:1, :1]), (x.shape[0], 1, 4)), x], axis=1),
    "rotary": lambda x: x * jnp.cos(jnp.arange(3.0))[None, :, None] + jnp.concatenate([-x[..., 2:], x[..., :2]], -1),
    "a range's parity": lambda x: x * (jnp.arange(4) % 2).astype(jnp.float32)[None, None],
    "known arrays as long as the batch": lambda x: x + jnp.ones((x.shape[0], 4)).sum(axis=0)[None, None],
    "masked logits": lambda x: jnp.where(x > 0, x, -jnp.inf),
    "remat and jit": jax.checkpoint(jax.jit(lambda x: jnp.sin(x) * jnp.cos(x))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_agree_at_any_batch(name):
    model = export.onnx_model(lambda _, x: FUNCTIONS[name](x), {}, X)
    for x in (X, np.concatenate([X, X[::-1] * 0.9, X])):
        np.testing.assert_allclose(answer(model, x), FUNCTIONS[name](jnp.asarray(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["clip", "fill", "wrap", "promise_in_bounds", None])
def test_rows_of_a_table_are_jax_s_for_any_index(mode):
    table = jnp.asarray(np.arange(12, dtype=np.float32).reshape(6, 2))

    def rows(x):
        return table.at[x].get(mode=mode) if mode == "promise_in_bounds" else jnp.take(table, x, axis=0, mode=mode)

    index = np.array([[0, 5, 2]] if mode == "promise_in_bounds" else [[-1, -8, 5], [6, 9, 0]], np.int32)
    model = export.onnx_model(lambda _, x: rows(x), {}, index)
    np.testing.assert_array_equal(answer(model, index), rows(index))


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    "window, strides, padding",
    [((2, 2), (2, 2), "VALID"), ((3, 3), (1, 2), "SAME"), ((1, 2), (1, 1), "VALID"), ((2, 1), (2, 1), "SAME")],
)
def test_pooling(window, strides, padding, rng):
    x = rng.normal(size=(2, 6, 7, 3)).astype(np.float32)
    for pool in (nnx.max_pool, nnx.avg_pool):
        model = export.onnx_model(lambda _, x, p=pool: p(x, window, strides=strides, padding=padding), {}, x)
        expected = pool(jnp.asarray(x), window, strides=strides, padding=padding)
        np.testing.assert_allclose(answer(model, x), expected, atol=1e-6)


def test_pooling_over_the_batch_is_refused():
    over = lambda _, x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2, 2, 2, 1), (1, 1, 1, 1), "VALID")  # noqa: E731
    with pytest.raises(UnsupportedError, match="pooling over a window"):
        export.onnx_model(over, {}, np.zeros((4, 4, 4, 1), np.float32), dynamic_batch=False)


def test_inputs_are_of_the_type_that_jax_computes_with():
    for x in (X.astype(np.float64), (10 * X).astype(np.int64)):
        model = export.onnx_model(lambda _, x: 2 * x, {}, x)
        kind = model.graph.input[0].type.tensor_type.elem_type
        assert onnx.helper.tensor_dtype_to_np_dtype(kind) == jnp.asarray(x).dtype


def test_only_the_batch_is_called_the_batch():
    model = export.onnx_model(lambda _, x: x.reshape(-1, 4), {}, X)
    (given,), (out,) = (
        [[d.dim_param or d.dim_value or None for d in v.type.tensor_type.shape.dim] for v in values]
        for values in (model.graph.input, model.graph.output)
    )
    assert given == ["batch", 3, 4] and out == [None, 4]


class Conv(nnx.Module):
    """Strides, groups, dilation, pooling, batch norm, attention and layer norm in one network."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), strides=2, feature_group_count=8, rngs=rngs)
        self.dilated = nnx.Conv(8, 12, (3, 3), kernel_dilation=2, padding="VALID", rngs=rngs)
        self.norm, self.last = nnx.BatchNorm(8, rngs=rngs), nnx.LayerNorm(12, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(3, 12, decode=False, rngs=rngs)
        self.head = nnx.Linear(12, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.norm(self.stem(x))), (3, 3), strides=(2, 2), padding="SAME")
        x = nnx.avg_pool(self.depthwise(x), (2, 2), strides=(1, 1))
        x = self.dilated(x)
        x = x.reshape(x.shape[0], -1, 12)
        return self.head((x + self.attention(self.last(x))).mean(axis=1))


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("quantizer", [MEC(k=4), LSQ(k=8, granularity=PerChannel())], ids=["mec", "lsq"])
def test_a_network_of_nnx_layers_runs_in_onnx_runtime(quantizer, tmp_path, rng):
    model, _ = quantize(Conv(nnx.Rngs(0)), [Rule("(depthwise|dilated)/kernel", quantizer)])
    model.norm.mean.set_value(jnp.asarray(rng.normal(size=8), jnp.float32))
    tensors, forward = nn.harden(model), nn.forward(model)
    x = rng.normal(size=(3, 28, 28, 3)).astype(np.float32)
    expected = forward(inference.dense(inference.to_device(tensors)), jnp.asarray(x))
    size = export.onnx(tmp_path / "m.onnx", forward, tensors, x)
    assert size == (tmp_path / "m.onnx").stat().st_size
    other = np.concatenate([x, x])
    found = answer(onnx.load(tmp_path / "m.onnx"), other)
    np.testing.assert_allclose(found, jnp.concatenate([expected, expected]), atol=2e-5 * float(abs(expected).max()))


class Linen(linen.Module):
    """A Linen network of two layers and a norm."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(4)(linen.LayerNorm()(linen.relu(linen.Dense(16)(x))))


def test_a_linen_network_runs_in_onnx_runtime(tmp_path, rng):
    x = rng.normal(size=(5, 8)).astype(np.float32)
    params = Linen().init(jax.random.key(0), jnp.asarray(x))["params"]
    tensors = quantize_tree(params, [Rule(".*kernel", MEC(k=3))]).to_tensors(params)

    def forward(arrays, x):
        return Linen().apply({"params": replace_leaves(params, arrays)}, x)

    assert set(tensors) == set(leaves_by_path(params))
    export.onnx(tmp_path / "m.onnx", forward, tensors, x, dynamic_batch=False)
    shape = onnx.load(tmp_path / "m.onnx").graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [5, 8]


def test_what_cannot_be_said_is_named_with_its_place():
    with pytest.raises(UnsupportedError, match=r"sort cannot be exported.*test_onnx.py"):
        export.onnx_model(lambda _, x: jnp.sort(x), {}, X)
    with pytest.raises(UnsupportedError, match="scan cannot be exported"):
        export.onnx_model(lambda _, x: jax.lax.scan(lambda c, _: (c + 1.0, None), x, length=3)[0], {}, X)
    with pytest.raises(UnsupportedError, match="halves away from zero"):
        export.onnx_model(lambda _, x: jax.lax.round(x), {}, X)
    with pytest.raises(UnsupportedError, match=r"padding inside or below zero \(at .*test_onnx.py"):
        export.onnx_model(lambda _, x: jax.lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1), (0, 0, 0)]), {}, X)
    with pytest.raises(UnsupportedError, match=r"at .*test_onnx.py"):
        export.onnx_model(lambda _, x: x[1:], {}, X)
    with pytest.raises(UnsupportedError, match="bfloat16"):
        export.onnx_model(lambda _, x: x.astype(jnp.bfloat16), {}, X)
    with pytest.raises(ValueError, match="float16 tensor"):
        export.onnx_model(lambda a, x: x, {"w": hard(np.random.default_rng(0), dtype="float16")}, X)
