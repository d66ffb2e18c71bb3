"""Rules, trees, hardening, report and losses, on a Flax Linen model with batch norm."""

import dataclasses

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from mecq_jax import storage, training
from mecq_jax.granularity import PerChannel
from mecq_jax.params import (
    Quantized,
    Rule,
    default_rules,
    leaves_by_path,
    make_plan,
    make_report,
    mean_entropy,
    quantize_tree,
    relative_squared_error,
)
from mecq_jax.quantizers import MEC
from mecq_jax.quantizers.baselines import LSQ
from mecq_jax.storage import QuantizedTensor

pytestmark = pytest.mark.fast


class Net(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool = False):
        for width in (8, 8, 16):
            x = linen.relu(linen.BatchNorm(use_running_average=not train)(linen.Conv(width, (3, 3))(x)))
        return linen.Dense(10)(x.mean(axis=(1, 2)))


X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 1)), jnp.float32)
VARIABLES = Net().init(jax.random.key(0), X)
PARAMS = VARIABLES["params"]
STATS = VARIABLES["batch_stats"]


def test_linen_model_with_batch_norm():
    quantized = quantize_tree(PARAMS, MEC())
    plan = quantized.plan
    assert set(plan.quantizers) == {"Conv_1/kernel", "Conv_2/kernel"}
    assert plan.skipped["Conv_0/kernel"] == "first layer" and plan.skipped["Dense_0/kernel"] == "last layer"
    soft, new, diagnostics = jax.jit(Quantized.soft)(quantized, PARAMS, 0.1)
    assert jax.tree.structure(new) == jax.tree.structure(quantized) and set(diagnostics) == set(plan.quantizers)
    for path, leaf in leaves_by_path(soft).items():
        same = np.array_equal(leaf, leaves_by_path(PARAMS)[path])
        assert same == (path not in plan.quantizers), path
    out, updated = Net().apply({"params": soft, "batch_stats": STATS}, X, train=True, mutable=["batch_stats"])
    assert out.shape == (4, 10) and bool(jnp.isfinite(out).all()) and "batch_stats" in updated


def test_entropy_is_weighted_by_parameter_count():
    _, _, info = quantize_tree(PARAMS, MEC()).soft(PARAMS, 0.1)
    sizes = {p: leaves_by_path(PARAMS)[p].size for p in info}
    expected = sum(sizes[p] * float(info[p].entropy) for p in info) / sum(sizes.values())
    np.testing.assert_allclose(mean_entropy(PARAMS, info), expected, rtol=1e-5)


THREE = [MEC(k=4), MEC(k=3, granularity=PerChannel()), LSQ(k=8)]


@pytest.mark.parametrize("quantizer", THREE, ids=["mec", "ternary", "lsq"])
def test_what_is_saved_is_what_was_computed(quantizer, tmp_path):
    quantized = quantize_tree(PARAMS, quantizer).freeze(PARAMS)
    shipped = leaves_by_path(quantized.hard(PARAMS))
    hard = quantized.to_tensors(PARAMS)
    path = tmp_path / "model.safetensors"
    size = storage.save(path, hard)
    loaded = storage.load(path)
    for name, value in shipped.items():
        dense = loaded[name].dense() if isinstance(loaded[name], QuantizedTensor) else loaded[name]
        np.testing.assert_array_equal(dense, value)
    report = make_report(quantized.plan, PARAMS, hard, path)
    assert report.file_bytes == size == path.stat().st_size
    assert all(row.path in str(report) for row in report.rows) and len(report.rows) == len(shipped)
    assert all((row.bits is None) == (row.skipped is not None) for row in report.rows)
    row = next(r for r in report.rows if r.path == "Conv_2/kernel")
    packed = {2: 2, 3: 3}[row.bits] * 3 * 3 * 8 * 16 // 8
    assert row.nbytes == packed + 4 * hard["Conv_2/kernel"].levels.size
    np.testing.assert_allclose(row.error, relative_squared_error(PARAMS["Conv_2"]["kernel"], shipped["Conv_2/kernel"]))


def test_frozen_codes_are_kept_and_divergence_is_an_error():
    quantized = quantize_tree(PARAMS, MEC())
    zeros = dataclasses.replace(quantized, codes={p: jnp.zeros_like(c) for p, c in quantized.codes.items()})
    assert zeros.to_tensors(PARAMS)["Conv_1/kernel"].codes.max() == 0
    broken = {p: {"levels": q["levels"] * jnp.float32(np.nan)} for p, q in quantized.parameters.items()}
    with pytest.raises(ValueError):
        dataclasses.replace(quantized, parameters=broken).to_tensors(PARAMS)


def test_freezing_at_a_temperature_solves_first():
    """At once what a soft pass and a freeze at its potentials come to; without it the old potentials count."""
    quantized = quantize_tree(PARAMS, MEC())
    moved = jax.tree.map(lambda x: x + 0.1 * jnp.sin(40 * x), PARAMS)
    together = quantized.freeze(moved, 0.05)
    apart = quantized.soft(moved, 0.05)[1].freeze(moved)
    for path, codes in together.codes.items():
        np.testing.assert_array_equal(codes, apart.codes[path])
    differ = [np.mean(codes != quantized.freeze(moved).codes[path]) for path, codes in together.codes.items()]
    assert max(differ) > 0


def test_two_sets_of_quantizers_join_unless_they_share_a_leaf():
    one = quantize_tree(PARAMS, [Rule("Conv_1/kernel", MEC())])
    other = quantize_tree(PARAMS, [Rule("Conv_2/kernel", LSQ())])
    both = one | other
    assert set(both.plan.quantizers) == set(both.codes) == {"Conv_1/kernel", "Conv_2/kernel"}
    assert not set(both.plan.skipped) & set(both.plan.quantizers)
    with pytest.raises(ValueError, match="twice"):
        one | one


def test_the_plan_is_static_data():
    one, other = quantize_tree(PARAMS, MEC()), quantize_tree(PARAMS, MEC())
    assert hash(one.plan) == hash(other.plan) and jax.tree.structure(one) == jax.tree.structure(other)
    assert jax.tree.structure(one) != jax.tree.structure(quantize_tree(PARAMS, MEC(k=3)))
    assert len(jax.tree.leaves(Quantized.none())) == 0


def test_first_match_wins_and_empty_rules_are_refused():
    rules = [Rule("Conv_1/.*kernel", LSQ()), Rule(".*kernel", None, "by hand")]
    plan = make_plan(PARAMS, rules)
    assert isinstance(plan.quantizers["Conv_1/kernel"], LSQ) and len(plan.quantizers) == 1
    assert plan.skipped["Conv_2/kernel"] == "by hand" and plan.skipped["Conv_1/bias"] == "a vector or scalar"
    with pytest.raises(ValueError, match="Conv_2/kernel"):
        make_plan(PARAMS, [Rule("conv.*", MEC())])
    with pytest.raises(ValueError, match="earlier rules"):
        make_plan(PARAMS, [Rule(".*kernel", MEC()), Rule("Conv_1/kernel", LSQ())])
    with pytest.raises(ValueError, match="only 1 kernels"):
        default_rules(MEC(), {"a": {"kernel": jnp.zeros((2, 2))}})


def test_errors_name_the_path():
    with pytest.raises(ValueError, match="table is int32"):
        quantize_tree({"table": jnp.zeros((4, 4), jnp.int32)}, [Rule("table", MEC())])
    with pytest.raises(ValueError, match="kernel: axis 5"):
        quantize_tree({"kernel": jnp.zeros((4, 4))}, [Rule("kernel", MEC(granularity=PerChannel(5)))])


def test_other_trees():
    """Lists and tuples have paths too."""
    params = [{"w": jnp.ones((4, 4))}, ({"w": jnp.arange(16.0).reshape(4, 4)},)]
    soft, _, _ = quantize_tree(params, [Rule("1/0/w", MEC(k=2))]).soft(params, 0.01)
    np.testing.assert_array_equal(soft[0]["w"], params[0]["w"])
    assert not np.array_equal(soft[1][0]["w"], params[1][0]["w"])


def test_distillation_is_the_divergence(rng):
    student, teacher = jnp.asarray(rng.normal(size=(2, 5, 7)), jnp.float32)
    p, q = log_softmax(teacher / 2.0, axis=1), log_softmax(student / 2.0, axis=1)
    expected = 4 * np.mean(np.sum(np.exp(p) * (p - q), axis=1))
    np.testing.assert_allclose(training.distillation(student, teacher, 2.0), expected, rtol=1e-4)
    assert abs(float(training.distillation(teacher, teacher))) < 1e-6
    assert not jax.grad(training.distillation, 1)(jnp.asarray(student), jnp.asarray(teacher)).any()
    with pytest.raises(ValueError, match="above 0"):
        training.distillation(student, teacher, 0.0)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_coding_length_is_the_determinant(shape, rng):
    z = rng.normal(size=shape)
    rows = z / np.linalg.norm(z, axis=1, keepdims=True)
    m, d = shape
    expected = (m + d) / 2 * np.linalg.slogdet(np.eye(d) + d / (m * 0.25) * rows.T @ rows)[1]
    np.testing.assert_allclose(training.coding_length(jnp.asarray(z, jnp.float32)), expected, rtol=1e-4)
    np.testing.assert_allclose(training.coding_length(jnp.asarray(3 * z, jnp.float32)), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="above 0"):
        training.coding_length(jnp.ones((2, 2)), 0.0)
