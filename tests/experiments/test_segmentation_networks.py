"""Networks with logits for every pixel: shapes, alignment, and which kernels are quantized."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.config import Config
from experiments.models import imagenet as imagenet_models
from experiments.models import segmentation as networks
from experiments.models.parts import Depthwise, patches, upsample
from experiments.tasks.base import parts
from experiments.training.run import named
from mecq_jax import storage
from mecq_jax.nn import parameters_by_path
from mecq_jax.params import default_rules, make_plan
from mecq_jax.quantizers import MEC

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.mark.parametrize("name, width", [("patch_unet", 8), ("segformer_b0", 8), ("resnet18_deeplab", 4)])
def test_a_logit_for_every_pixel_and_every_kernel_quantized(name, width):
    order = {}

    def outline(x):
        model = networks.build(name, 5, width, seed=0)
        order.update(parameters_by_path(model))
        return model(x), nnx.to_pure_dict(nnx.state(model, nnx.Param))

    logits, params = jax.eval_shape(outline, jax.ShapeDtypeStruct((2, 36, 44, 3), jnp.float32))
    assert logits.shape == (2, 36, 44, 5)
    names = [path for path in order if path.endswith("kernel")]
    plan = make_plan(params, default_rules(MEC(k=4), order))
    assert set(plan.quantizers) == set(names[1:-1])
    assert names[-1] == "head/kernel" and order[names[0]].shape[-2] in (3, 48)
    quantized = sum(order[path].size for path in plan.quantizers)
    assert quantized > 0.9 * sum(x.size for path, x in order.items() if not path.endswith("taps"))


def test_segformer_b0_has_the_papers_parameters():
    model = nnx.eval_shape(lambda: networks.build("segformer_b0", 150, 32, seed=0))
    count = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count == pytest.approx(3.8e6, rel=0.03)  # arXiv 2105.15203, table 1a, with ADE20K's 150 classes


def test_unknown_model():
    with pytest.raises(ValueError, match="patch_unet"):
        networks.build("unet", 5, 8, seed=0)


def test_depthwise_is_the_grouped_convolution(rng):
    layer = Depthwise(6, nnx.Rngs(0))
    x = jnp.asarray(rng.normal(size=(2, 5, 7, 6)), jnp.float32)
    expected = jax.lax.conv_general_dilated(
        x,
        layer.taps[...][:, :, None, :],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=6,
    )
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_patches_and_upsample_keep_places(rng):
    x = rng.normal(size=(1, 6, 7, 2)).astype(np.float32)
    cut = np.asarray(patches(jnp.asarray(x), 4))
    assert cut.shape == (1, 2, 2, 32)
    np.testing.assert_array_equal(cut[0, 0, 1].reshape(4, 4, 2)[:, :3], x[0, :4, 4:])
    assert not cut[0, 0, 1].reshape(4, 4, 2)[:, 3].any()
    rows = np.broadcast_to(np.arange(3.0)[:, None, None] * 4 + 1.5, (3, 3, 1))[None]  # each cell's middle row
    grown = np.asarray(upsample(jnp.asarray(rows, jnp.float32), 4, (11, 9)))
    assert grown.shape == (1, 11, 9, 1)
    np.testing.assert_allclose(grown[0, 2:10, 4, 0], np.arange(2, 10), atol=1e-5)
    with pytest.raises(ValueError, match="does not cover"):
        upsample(jnp.zeros((1, 3, 3, 1)), 4, (13, 9))


def test_an_encoder_starts_from_a_classifiers_weights(tmp_path):
    classifier = imagenet_models.ResNet(3, 32, 7, 4, nnx.Rngs(5))
    classifier.stem_norm.mean[...] = jnp.arange(4.0)
    task = parts(classifier)
    storage.save(tmp_path / "float.safetensors", named(task["params"], task["model_state"]))
    config = Config(task="segmentation", model="resnet18_deeplab", width=4, encoder_run=str(tmp_path))
    model = networks.made(config, 5)
    np.testing.assert_array_equal(model.encoder.stem_norm.mean[...], np.arange(4.0))
    for ours, theirs in (
        (model.encoder.stem, classifier.stem),
        (model.encoder.blocks[7].convs[1], classifier.blocks[7].convs[1]),
    ):
        np.testing.assert_array_equal(ours.kernel[...], theirs.kernel[...])
    differs = r"holds \(3, 3, 4, 4\) for blocks/0/convs/0/kernel, the encoder needs \(3, 3, 8, 8\)"
    with pytest.raises(ValueError, match=differs):
        networks.made(dataclasses.replace(config, width=8), 5)
    with pytest.raises(ValueError, match="'patch_unet' has no encoder"):
        networks.made(dataclasses.replace(config, model="patch_unet"), 5)
    with pytest.raises(FileNotFoundError, match=r"holds no float\.safetensors"):
        networks.made(dataclasses.replace(config, encoder_run=str(tmp_path / "none")), 5)


def test_a_dilated_encoder_keeps_a_sixteenth():
    x = jnp.zeros((1, 64, 96, 3))
    for dilated, size in ((False, (2, 3)), (True, (4, 6))):
        encoder = imagenet_models.Encoder(3, 4, nnx.Rngs(0), dilated=dilated)
        encoder.eval()
        assert encoder.features(x).shape == (1, *size, 32)
