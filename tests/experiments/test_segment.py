"""Segmentation: the figure, the ignore label, augmentation of image and mask together, the folder, a run to a file."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from experiments.config import Config
from experiments.data import masks, scaling
from experiments.models import segmentation as networks
from experiments.reporting import pictures
from experiments.tasks import segmentation as segment
from experiments.training import run as runs

pytestmark = pytest.mark.usefixtures("standard_promotion")

NAMES = ("floor", "wall", "lamp")


class PerPixel(nnx.Module):
    """Three dense layers over the channels of each pixel: little to compile."""

    def __init__(self, classes, width, rngs):
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in ((3, width), (width, width), (width, classes))])

    def __call__(self, x):
        return self.layers[2](nnx.relu(self.layers[1](nnx.relu(self.layers[0](x)))))


def paint(images):
    """The class of each pixel of an image painted in three greys, 40, 120 and 200."""
    return (images[..., 0] // 80).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six train and three test images of 24 x 32: a lamp on a wall above a floor."""
    root = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True)
        for i in range(count):
            grey = np.full((24, 32), 40)
            grey[: rng.integers(8, 20)] = 120
            y, x = rng.integers(0, 16), rng.integers(0, 24)
            grey[y : y + 8, x : x + 8] = 200
            noisy = np.clip(grey[..., None] + rng.integers(-20, 20, (24, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(root / split / "images" / f"{i}.png")
            Image.fromarray((grey // 80).astype(np.uint8)).save(root / split / "masks" / f"{i}.png")
    (root / "classes.json").write_text(json.dumps({"names": NAMES}))
    return root


@pytest.fixture
def config(folder):
    return Config(
        task="segmentation",
        dataset="folder",
        data_dir=str(folder),
        size=(24, 32),
        model="patch_unet",
        width=4,
        augment="scale_crop_flip",
        batch=3,
        float_epochs=2,
        soft_epochs=2,
        hard_epochs=1,
        temperature_end=1e-3,
    )


def test_miou_is_that_of_a_loop_over_pixels(rng, folder, config):
    labels, found = rng.integers(0, 4, (2, 5, 7)), rng.integers(0, 4, (2, 5, 7))
    labels[labels == 3] = masks.IGNORE
    found[found == 3] = 0
    task = segment.make_task(config)
    counts = np.asarray(segment.confusion(jnp.asarray(labels), jnp.asarray(found), 3))
    assert counts.shape == (2, 3, 3) and counts.dtype == np.int32
    seen = labels != masks.IGNORE
    each = []
    for c in range(3):
        both = ((labels == c) & (found == c) & seen).sum()
        each.append(both / (((labels == c) | (found == c)) & seen).sum())
    np.testing.assert_allclose(segment.iou(counts.sum(axis=0)), each)
    assert task.score(counts) == pytest.approx(np.mean(each))
    assert segment.pixel_accuracy(counts.sum(axis=0)) == pytest.approx((labels == found)[seen].mean())


def test_classes_that_do_not_occur_are_left_out(config):
    counts = np.array([[[3, 1, 0], [0, 4, 0], [0, 0, 0]]], np.int32)
    assert segment.make_task(config).score(counts) == pytest.approx((3 / 4 + 4 / 5) / 2)


def test_ignored_pixels_have_no_gradient(rng):
    logits = jnp.asarray(rng.normal(size=(2, 3, 4, 5)), jnp.float32)
    labels = rng.integers(0, 5, (2, 3, 4))
    labels[0, 1] = labels[1, :, 2] = masks.IGNORE
    value, gradient = jax.value_and_grad(segment.cross_entropy)(logits, jnp.asarray(labels), masks.IGNORE)
    seen = labels != masks.IGNORE
    assert not np.asarray(gradient)[~seen].any() and np.abs(np.asarray(gradient)[seen]).min() > 0
    z = np.asarray(logits, np.float64)[seen]
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    assert float(value) == pytest.approx(-log_p[np.arange(len(z)), labels[seen]].mean(), rel=1e-5)
    nothing = segment.cross_entropy(logits, jnp.full((2, 3, 4), masks.IGNORE), masks.IGNORE)
    assert float(nothing) == 0


def test_augmentation_keeps_image_and_mask_together():
    """Two halves of 1 and 2: where the enlarged or reduced image is near neither edge, the mask says the same."""
    halves = np.ones((16, 40, 60), np.int32)
    halves[:, 14:, 20:] = 2
    images = jnp.asarray(halves[..., None], jnp.float32)
    image, mask = jax.jit(lambda k: scaling.scale_crop_flip(k, images, jnp.asarray(halves), 255))(jax.random.key(3))
    image, mask = np.asarray(image)[..., 0], np.asarray(mask)
    assert set(np.unique(mask)) == {1, 2, 255}
    np.testing.assert_array_equal(image == 0, mask == 255)
    flat = (np.abs(image - 1) < 1e-3) | (np.abs(image - 2) < 1e-3)
    np.testing.assert_array_equal(np.rint(image)[flat], mask[flat])
    assert flat[mask != 255].mean() > 0.9
    # A reduced image lies whole within the crop, an enlarged one covers it; some are mirrored.
    outside = (mask == 255).mean(axis=(1, 2))
    assert (outside == 0).any() and (outside > 0).any() and outside.max() < 0.76
    right_higher = [image[i, :, 30:].sum() > image[i, :, :30].sum() for i in range(16)]
    assert 0 < sum(right_higher) < 16


def test_a_crop_may_be_smaller_than_the_images():
    images, labels = jnp.ones((2, 40, 60, 3)), jnp.ones((2, 40, 60), jnp.int32)
    image, mask = scaling.apply(jax.random.key(0), images, labels, "scale_crop_flip", 255, (24, 32))
    assert image.shape == (2, 24, 32, 3) and mask.shape == (2, 24, 32)
    with pytest.raises(ValueError, match="scale_crop_flip"):
        scaling.check("crop")


def test_windows_that_cover_the_image_are_the_whole(rng):
    images = jnp.asarray(rng.normal(size=(2, 9, 13, 3)), jnp.float32)

    def twice(x):
        return 2 * x

    for window in ((9, 13), (20, 20), (4, 5), (9, 6)):
        np.testing.assert_allclose(segment.sliding(twice, images, window), 2 * images, rtol=1e-6)
    assert segment._starts(13, 5, 0.5) == [0, 2, 4, 6, 8]
    with pytest.raises(ValueError, match="overlap"):
        segment.sliding(twice, images, (4, 4), 1.0)


def test_larger_images_go_by_windows(config, monkeypatch):
    monkeypatch.setitem(networks.MODELS, "per_pixel", PerPixel)
    task = segment.make_task(dataclasses.replace(config, model="per_pixel"))
    large = np.random.default_rng(1).integers(0, 256, (1, 30, 40, 3)).astype(np.uint8)
    by_windows = task.class_map(task.params, task.model_state, large)
    whole = dataclasses.replace(task, config=dataclasses.replace(config, size=None))
    np.testing.assert_array_equal(by_windows, whole.class_map(task.params, task.model_state, large))


def test_the_folder_as_arrays(folder):
    found = masks.load(folder)
    assert found.train_images.shape == (6, 24, 32, 3) and found.test_labels.shape == (3, 24, 32)
    np.testing.assert_array_equal(paint(found.train_images), found.train_labels)
    assert found.classes.names == NAMES and len(found.classes.colours) == 3
    half = masks.load(folder, (12, 16), train_size=2)
    assert half.train_images.shape == (2, 12, 16, 3) and set(np.unique(half.test_labels)) <= {0, 1, 2}
    assert len(set(masks.palette(30))) == 30


def _broken(tmp_path, *sizes, label=1, mask=True):
    """A folder with images of these sizes, and masks of one label."""
    for split in ("train", "val"):
        for part in ("images", "masks"):
            (tmp_path / split / part).mkdir(parents=True)
        for i, (size, mask_size) in enumerate(sizes):
            Image.new("RGB", size).save(tmp_path / split / "images" / f"{i}.png")
            if mask:
                Image.new("L", mask_size, label).save(tmp_path / split / "masks" / f"{i}.png")
    return tmp_path


SAME = ((8, 6), (8, 6))


@pytest.mark.parametrize(
    "broken, message",
    [
        ({"sizes": [], "mask": True}, "is empty"),
        ({"sizes": [SAME], "mask": False}, "0.png has no mask"),
        ({"sizes": [((8, 6), (6, 8))]}, "6 x 8 and its mask .* 8 x 6"),
        ({"sizes": [SAME, ((9, 6), (9, 6))]}, "size="),
        ({"sizes": [SAME], "label": 12}, "label 12, beyond the 11 classes"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(tmp_path, broken, message):
    root = _broken(tmp_path, *broken.pop("sizes"), **broken)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        masks.load(root, classes=masks.CAMVID)


def test_what_is_missing_is_said(tmp_path, config):
    with pytest.raises(ValueError, match="data_dir"):
        masks.load(None)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        masks.load(tmp_path)
    with pytest.raises(ValueError, match="dataset = 'digits'"):
        segment.make_task(dataclasses.replace(config, dataset="digits"))
    with pytest.raises(ValueError, match="'floor'"):
        masks.Classes(names=NAMES, colours=masks.palette(3), ignore=0)
    assert masks.load(_broken(tmp_path, SAME)).classes.names == ("0", "1")


def test_a_run_ends_in_a_file_and_a_picture(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(networks.MODELS, "per_pixel", PerPixel)
    config = dataclasses.replace(config, model="per_pixel", soft_epochs=1)
    task = segment.make_task(config)
    result = runs.run(config, tmp_path / "run", task=task)
    assert 0 <= result.hard_score <= 1 and result.report
    predictions = np.load(tmp_path / "run" / "evaluated.npz")["predictions"]
    assert predictions.shape == (3, 3, 3) and predictions.sum() == 3 * 24 * 32
    assert task.score(predictions) == result.hard_score
    drawing = tmp_path / "out" / "picture.png"
    run_folder = ["--folder", str(tmp_path / "run")]
    assert pictures.main([*run_folder, *run_folder, "--images", "2", "-o", str(drawing)]) == 0
    with Image.open(drawing) as image:
        assert image.width == pictures.WIDTH
    assert pictures.main([*run_folder, "--images", "9", "-o", str(drawing)]) == 2
    assert "must be from 1 to the 3" in capsys.readouterr().err
