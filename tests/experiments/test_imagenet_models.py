"""The ImageNet networks: published parameter counts, what each part computes, and which kernels the rules take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.models import imagenet as imagenet_models
from experiments.models.imagenet import MODELS, DeiT, Residual
from experiments.tasks.classification import cross_entropy, mixup
from mecq_jax.nn import parameters_by_path
from mecq_jax.params import default_rules, leaves_by_path, make_plan
from mecq_jax.quantizers import MEC

pytestmark = pytest.mark.usefixtures("standard_promotion")

PUBLISHED = {
    "resnet18": (64, 11_689_512),
    "resnet50": (64, 25_557_032),
    "mobilenetv2": (32, 3_504_872),
    "deit_s": (384, 22_050_664),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    width, published = PUBLISHED[name]
    model = nnx.eval_shape(lambda: MODELS[name](3, 224, 1000, width, rngs=nnx.Rngs(0)))
    assert sum(np.prod(x.shape) for x in jax.tree.leaves(nnx.state(model, nnx.Param))) == published
    out = nnx.eval_shape(lambda m, x: m(x), model, jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32))
    assert out.shape == (2, 1000)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_kernel_between_first_and_last_is_quantized(name):
    paths = []

    def build():
        found = parameters_by_path(MODELS[name](3, 32, 10, PUBLISHED[name][0], rngs=nnx.Rngs(0)))
        paths.extend(found)  # in the order of construction, which JAX's own mappings lose
        return found

    shapes = jax.eval_shape(build)
    order = {path: shapes[path] for path in paths}
    plan = make_plan(order, default_rules(MEC(k=4), order))
    found = [path for path in leaves_by_path(order) if path.endswith("kernel")]
    assert found[0] in ("stem/kernel", "first/kernel") and found[-1] == "head/kernel"
    assert list(plan.quantizers) == found[1:-1]
    if name == "deit_s":
        assert len(found) == 2 + 12 * 6  # query, key, value, out, up and down of each block


def test_the_last_norm_starts_a_block_as_its_shortcut():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 16))
    block = Residual(16, 4, 1, bottleneck=True, zero=True, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(block(x), np.maximum(x, 0), atol=1e-6)
    other = Residual(16, 4, 1, bottleneck=True, zero=False, rngs=nnx.Rngs(0))
    assert np.abs(other(x) - np.maximum(x, 0)).max() > 0.1


def test_a_stride_samples_where_torch_does():
    """One pixel of padding on the top and left: output (i, j) is centred on input (2 i, 2 j)."""
    conv = imagenet_models._conv(1, 1, 3, nnx.Rngs(0), stride=2)
    x = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    kernel, padded = np.asarray(conv.kernel[...])[:, :, 0, 0], np.pad(x, 1)
    expected = [[(padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3] * kernel).sum() for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(conv(x[None, :, :, None])[0, :, :, 0], expected, atol=1e-5)


def test_deit_reads_the_class_token_and_sees_positions():
    model = DeiT(3, 32, 5, 16, nnx.Rngs(0), depth=1)
    x = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    swapped = jnp.concatenate([x[:, 16:], x[:, :16]], axis=1)
    assert np.abs(model(x) - model(swapped)).max() > 1e-5
    model.positions[...] = jnp.zeros_like(model.positions[...])
    np.testing.assert_allclose(model(x), model(swapped), atol=1e-5)  # attention alone knows no order
    with pytest.raises(ValueError, match="16 x 16"):
        DeiT(3, 30, 5, 16, nnx.Rngs(0))


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="vgg19"):
        imagenet_models.build("vgg19", 3, 32, 10, 64, 0)


def test_smoothed_cross_entropy_is_its_formula(rng):
    logits, labels = rng.normal(size=(5, 7)), rng.integers(0, 7, 5)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = 0.9 * np.eye(7)[labels] + 0.1 / 7
    found = cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), 0.1)
    np.testing.assert_allclose(found, -(targets * log_p).sum(axis=1).mean(), rtol=1e-5)


def test_mixup_mixes_the_ends_of_a_batch(rng):
    images, labels = jnp.asarray(rng.normal(size=(6, 2, 2, 3)), jnp.float32), jnp.arange(6)
    shares = []
    for seed in range(50):
        mixed, others, share = mixup(jax.random.key(seed), images, labels, 0.8)
        np.testing.assert_allclose(mixed, share * images + (1 - share) * images[::-1], atol=1e-6)
        np.testing.assert_array_equal(others, [5, 4, 3, 2, 1, 0])
        shares.append(float(share))
    assert 0 <= min(shares) < 0.2 and 0.8 < max(shares) <= 1 and abs(np.mean(shares) - 0.5) < 0.15
