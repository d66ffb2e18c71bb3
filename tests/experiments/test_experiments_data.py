"""Data sets, epoch order and augmentation."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import augment
from experiments.data import in_memory as data

pytestmark = pytest.mark.fast


@pytest.fixture
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_digits_shapes_and_types(digits):
    assert (len(digits.train_images), len(digits.test_images)) == (1438, 359)
    assert digits.train_images.shape[1:] == digits.test_images.shape[1:] == (8, 8, 1)
    assert digits.train_images.dtype == digits.test_images.dtype == np.uint8
    assert digits.train_labels.dtype == digits.test_labels.dtype == np.int32
    assert (digits.name, digits.classes, digits.train_images.max()) == ("digits", 10, 255)


def test_digits_pixels_are_those_of_scikit_learn(digits):
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    expected = sorted((*np.round(p * 255 / 16).astype(int), y) for p, y in zip(pixels, labels, strict=True))
    images = np.concatenate([digits.train_images, digits.test_images]).reshape(-1, 64).astype(int)
    both = np.concatenate([digits.train_labels, digits.test_labels])
    # Every example once, in train or in test: with the counts above the split is disjoint and complete.
    assert sorted((*p, y) for p, y in zip(images, both, strict=True)) == expected


def test_split_is_disjoint_complete_and_stratified():
    labels = np.random.default_rng(1).integers(0, 7, 1000)
    kept, held = data.stratified_split(labels, 0.2, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(1000))
    for label in range(7):
        assert np.sum(labels[held] == label) == round(0.2 * np.sum(labels == label))


def test_digits_classes_are_balanced_and_the_split_is_deterministic(digits):
    shares = np.bincount(digits.test_labels) / (np.bincount(digits.test_labels) + np.bincount(digits.train_labels))
    np.testing.assert_allclose(shares, 0.2, atol=0.003)
    np.testing.assert_array_equal(data.load("digits").test_images, digits.test_images)


def test_channel_statistics_match_numpy():
    images = np.random.default_rng(0).integers(0, 256, (20, 5, 6, 3)).astype(np.uint8)
    mean, std = data.channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-12)


def test_train_size_takes_nested_choices_and_leaves_the_test_set(digits):
    small, large = data.load("digits", train_size=50), data.load("digits", train_size=200)
    assert len(small.train_images) == len(small.train_labels) == 50
    np.testing.assert_array_equal(small.train_images, large.train_images[:50])
    np.testing.assert_array_equal(small.test_labels, digits.test_labels)
    assert small.mean == data.channel_statistics(small.train_images)[0]


@pytest.mark.parametrize("size", [0, 1439])
def test_train_size_out_of_bounds(size):
    with pytest.raises(ValueError, match=f"train_size is {size}, must be from 1 to 1438"):
        data.load("digits", train_size=size)


def test_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match=r"'mnist'.*cifar10, cifar100, digits, fashion_mnist"):
        data.load("mnist")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("the network was tried")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(f"socket.socket.{name}", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_missing_data_set_says_how_to_get_it_at_once(name, tmp_path, no_network):
    (tmp_path / name / "3.0.2").mkdir(parents=True)  # an empty version is as good as none
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as caught:
        data.load(name, data_dir=tmp_path)
    assert time.monotonic() - start < 5
    text = str(caught.value)
    assert str(tmp_path / name) in text and "--data_dir" in text and "pip install tensorflow" in text
    assert f"import tensorflow_datasets as tfds; tfds.data_source('{name}', data_dir='{tmp_path}')" in text


def test_data_dir_defaults_to_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        data.load("cifar10")


def test_newest_prepared_version_is_taken(tmp_path):
    for version in ("3.0.2", "3.0.10"):
        folder = tmp_path / "cifar10" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").touch()
        (folder / "cifar10-test.array_record-00000-of-00001").touch()
    assert data._prepared_version("cifar10", tmp_path) == "3.0.10"


def test_records_are_read_in_order_past_one_read(monkeypatch, tmp_path):
    class Source:
        def __len__(self):
            return 2345

        def __getitems__(self, indices):
            return [{"image": np.full((2, 2, 1), i % 256, np.uint8), "label": i} for i in indices]

    class Tfds:
        @staticmethod
        def data_source(name, split, data_dir, download):
            assert (name, split, data_dir, download) == ("cifar10:3.0.2", "test", tmp_path, False)
            return Source()

    monkeypatch.setattr(data, "_tfds", lambda: Tfds)
    images, labels = data._read_split("cifar10:3.0.2", "test", tmp_path)
    np.testing.assert_array_equal(labels, np.arange(2345))
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(2345) % 256)
    assert images.dtype == np.uint8 and labels.dtype == np.int32


def test_epoch_is_a_permutation_less_its_rest():
    order = data.epoch_indices(0, 3, n=103, batch=10)
    assert order.shape == (10, 10) and order.dtype == np.int32
    assert len(np.unique(order)) == 100 and order.min() >= 0 and order.max() < 103
    np.testing.assert_array_equal(np.sort(data.epoch_indices(0, 3, 100, 10).ravel()), np.arange(100))


def test_epoch_is_a_function_of_seed_and_epoch():
    first = data.epoch_indices(5, 2, 64, 8)
    np.testing.assert_array_equal(first, data.epoch_indices(5, 2, 64, 8))
    for seed, epoch in ((5, 3), (6, 2), (2, 5)):
        assert not np.array_equal(first, data.epoch_indices(seed, epoch, 64, 8))
    assert not np.array_equal(first.ravel(), np.arange(64))


@pytest.mark.parametrize("batch", [0, 11])
def test_batch_out_of_bounds(batch):
    with pytest.raises(ValueError, match=f"batch is {batch}, must be from 1 to n = 10"):
        data.epoch_indices(0, 0, 10, batch)


def test_negative_seed():
    with pytest.raises(ValueError, match="rng_seed is -1"):
        data.epoch_indices(-1, 0, 10, 2)


def random_images(shape=(12, 6, 5, 3)):
    return np.random.default_rng(0).integers(1, 256, shape).astype(np.uint8)


def test_normalise_under_jit(strict):
    images, mean, std = random_images(), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    result = jax.jit(lambda x: augment.normalise(x, mean, std))(images)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, (images / 255 - np.array(mean)) / np.array(std), rtol=1e-5, atol=1e-6)


def test_normalise_wants_a_value_per_channel():
    with pytest.raises(ValueError, match=r"mean has 1 and std 3 values.*per channel \(3\)"):
        augment.normalise(jnp.zeros((1, 2, 2, 3), jnp.uint8), (0.5,), (1.0, 1.0, 1.0))


def possible_crops(image, pad, flip, mode):
    """The bytes of every image that `crop_flip` may make of `image`: (row, column, mirrored) for each."""
    h, w, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    found = {}
    for mirrored in (False, True) if flip else (False,):
        for row in range(2 * pad + 1):
            for column in range(2 * pad + 1):
                crop = padded[row : row + h, column : column + w]
                found[(crop[:, ::-1] if mirrored else crop).tobytes()] = (row, column, mirrored)
    return found


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("mode", "numpy_mode"), [("zero", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_each_output_is_a_possible_crop(strict, flip, mode, numpy_mode, dtype):
    images = random_images((200, 6, 5, 3)).astype(dtype)
    crop = jax.jit(lambda key, x: augment.crop_flip(key, x, pad=2, flip=flip, mode=mode))
    result = np.asarray(crop(jax.random.key(0), images))
    assert result.shape == images.shape and result.dtype == images.dtype
    taken = [
        possible_crops(image, 2, flip, numpy_mode)[out.tobytes()] for image, out in zip(images, result, strict=True)
    ]
    rows, columns, mirrored = (set(choice) for choice in zip(*taken, strict=True))
    assert rows == columns == set(range(5))
    assert mirrored == ({False, True} if flip else {False})
    assert len({choice[:2] for choice in taken}) == 25  # rows and columns are drawn apart
    if flip and mode == "zero":  # a mirrored crop of a reflected image may equal an unmirrored one
        assert 70 <= sum(choice[2] for choice in taken) <= 130


def test_no_padding_is_the_identity_or_a_flip(strict):
    images = random_images()
    same = augment.crop_flip(jax.random.key(1), jnp.asarray(images), pad=0, flip=False)
    np.testing.assert_array_equal(same, images)
    flipped = np.asarray(augment.crop_flip(jax.random.key(1), jnp.asarray(images), pad=0))
    mirrored = [np.array_equal(out, image[:, ::-1]) for image, out in zip(images, flipped, strict=True)]
    kept = [np.array_equal(out, image) for image, out in zip(images, flipped, strict=True)]
    assert all(np.logical_xor(mirrored, kept)) and any(mirrored) and any(kept)


def test_apply_kinds(strict):
    images, key = jnp.asarray(random_images()), jax.random.key(2)
    apply = jax.jit(augment.apply, static_argnums=(2, 3))
    np.testing.assert_array_equal(apply(key, images, "none"), images)
    np.testing.assert_array_equal(apply(key, images, "crop"), augment.crop_flip(key, images, flip=False))
    np.testing.assert_array_equal(apply(key, images, "crop_flip", 1), augment.crop_flip(key, images, pad=1))
    other = apply(jax.random.key(3), images, "crop_flip")
    assert not np.array_equal(other, apply(key, images, "crop_flip"))


def test_augmentation_errors():
    images, key = jnp.zeros((1, 4, 4, 1)), jax.random.key(0)
    with pytest.raises(ValueError, match="'mixup'; use one of none, crop, crop_flip"):
        augment.apply(key, images, "mixup")
    with pytest.raises(ValueError, match="pad is -1, must be at least 0"):
        augment.crop_flip(key, images, pad=-1)
    with pytest.raises(ValueError, match="pad is 4, must be below the size 4"):
        augment.crop_flip(key, images, pad=4, mode="reflect")
    with pytest.raises(ValueError, match="mode 'wrap'; use one of zero, reflect"):
        augment.crop_flip(key, images, mode="wrap")
