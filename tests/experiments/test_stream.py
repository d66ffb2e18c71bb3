"""Streams: the same examples whoever reads them and from wherever; transforms of the smallest and oddest images."""

from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.data import decode
from experiments.data import in_memory as data
from experiments.data.in_memory import epoch_indices
from experiments.data.stream import Stream, open_tfds
from experiments.tasks import ade20k
from experiments.tasks import streamed_classification as imagenet


class Counted:
    """Records that know which of them were read."""

    def __init__(self, count: int):
        self.count, self.read = count, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        self.read.append(index)
        return {"number": index}


class Numbers:
    """Records that can be sent to a worker."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> dict:
        return {"number": index}


def drawn(record: dict, rng: np.random.Generator) -> dict:
    return {"number": np.int32(record["number"]), "draw": rng.random(2)}


def same(a, b) -> None:
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for name in x:
            np.testing.assert_array_equal(x[name], y[name])


def test_an_epoch_is_a_function_of_its_arguments():
    stream = Stream(Numbers(), drawn)
    first = list(stream.epoch(5, seed=3, number=1))
    same(first, Stream(Numbers(), drawn).epoch(5, 3, 1))
    np.testing.assert_array_equal([b["number"] for b in first], epoch_indices(3, 1, 23, 5))
    for other in (stream.epoch(5, 3, 2), stream.epoch(5, 4, 1)):
        assert not np.array_equal([b["number"] for b in first], [b["number"] for b in other])
    # The draws belong to the example: in batches of another size it has the same ones, in another epoch others.
    by_number = {int(n): d for b in first for n, d in zip(b["number"], b["draw"], strict=True)}
    for batch in stream.epoch(2, 3, 1):
        for n, d in zip(batch["number"], batch["draw"], strict=True):
            assert int(n) not in by_number or np.array_equal(by_number[int(n)], d)
    assert not any(
        np.array_equal(by_number.get(int(n)), d)
        for b in stream.epoch(5, 3, 2)
        for n, d in zip(b["number"], b["draw"], strict=True)
    )


def test_it_goes_on_at_a_batch_without_reading_those_before():
    whole, records = list(Stream(Counted(23), drawn).epoch(5, 0, 1)), Counted(23)
    same(whole[2:], Stream(records, drawn).epoch(5, 0, 1, start=2))
    assert sorted(records.read) == sorted(np.concatenate([b["number"] for b in whole[2:]]))
    assert list(Stream(records, drawn).epoch(5, 0, 1, start=4)) == []


def test_two_processes_read_the_halves_of_every_batch(monkeypatch):
    whole = list(Stream(Counted(23), drawn).epoch(6, 0, 1))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    parts = []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        records = Counted(23)
        parts.append(list(Stream(records, drawn).epoch(6, 0, 1)))
        assert len(records.read) == 9  # of 18 examples in 3 batches
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*parts, strict=True)]
    same(whole, joined)


def test_once_is_every_example_in_order_and_a_fill():
    batches = list(Stream(Numbers(), drawn).once(10))
    numbers = np.concatenate([b["number"] for b in batches])
    assert [len(b["number"]) for b in batches] == [10, 10, 10]
    np.testing.assert_array_equal(numbers[:23], np.arange(23))
    assert set(numbers[23:]) <= set(range(23))


def test_a_fixed_choice_lies_in_every_larger_one():
    def numbers(size):
        return set(np.concatenate([b["number"] for b in Stream(Numbers(), drawn, train_size=size).once(23)]))

    assert len(numbers(7)) == 7 and numbers(7) < numbers(12)
    with pytest.raises(ValueError, match="train_size is 24"):
        Stream(Numbers(), drawn, train_size=24)
    with pytest.raises(ValueError, match="batch is 8"):
        Stream(Numbers(), drawn, train_size=7).epoch(8, 0, 1)


@pytest.mark.slow
def test_workers_change_nothing():
    same(Stream(Numbers(), drawn).epoch(5, 3, 7, start=1), Stream(Numbers(), drawn, workers=2).epoch(5, 3, 7, start=1))


def test_a_missing_data_set_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)imagenet2012.*data_dir.*more"):
        open_tfds("imagenet2012", "train", tmp_path, hint="more")


IMAGES = [(5, 5, 3), (5, 49, 3), (47, 17, 3), (6, 300, 1), (40, 30)]


@pytest.mark.parametrize("shape", IMAGES)
def test_any_image_becomes_the_size(rng, shape):
    image = decode.rgb(rng.integers(0, 255, shape, np.uint8))
    mask = rng.integers(0, 150, shape[:2], np.uint8)
    for _ in range(20):
        assert decode.random_resized_crop(rng, image, (32, 24)).shape == (32, 24, 3)
    assert decode.center_crop(image, (32, 24)).shape == (32, 24, 3)
    for found, labels in (decode.random_scale_crop(rng, image, mask, (32, 24)), decode.whole(image, mask, (32, 24))):
        assert found.shape == (32, 24, 3) and labels.shape == (32, 24)
        assert found.dtype == labels.dtype == np.uint8


def test_gray_and_transparent_images_become_colours(rng):
    gray = rng.integers(0, 255, (4, 6), np.uint8)
    np.testing.assert_array_equal(decode.rgb(gray), decode.rgb(gray[..., None]))
    assert (decode.rgb(gray) == gray[..., None]).all()
    colours = rng.integers(0, 255, (4, 6, 4), np.uint8)
    np.testing.assert_array_equal(decode.rgb(colours), colours[..., :3])


def test_resizing_averages_where_it_shrinks(rng):
    image = rng.integers(0, 255, (64, 64, 3), np.uint8)
    small = decode.resize(image, (4, 4)).astype(float)
    assert np.abs(small - 127).max() < 25  # a sample of single pixels would spread over 0 to 254


def test_crops_have_the_areas_and_shapes_that_are_said(rng):
    boxes = np.array([decode._random_box(rng, 400, 500, (0.08, 0.5), (3 / 4, 4 / 3)) for _ in range(2000)])
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= 400).all() and (left + w <= 500).all()
    share, ratio = h * w / 200_000, w / h
    assert share.min() > 0.079 and share.max() < 0.501 and ratio.min() > 0.74 and ratio.max() < 1.35
    assert abs(np.mean(share < 0.29) - 0.5) < 0.05  # uniform: parts as small as these always fit
    assert abs(np.median(np.log(ratio))) < 0.05


def test_the_middle_is_what_torchvision_takes(rng):
    image = rng.integers(0, 255, (375, 500, 3), np.uint8)
    resized = np.asarray(Image.fromarray(image).resize((341, 256), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode.center_crop(image, (224, 224)), resized[16:240, 58:282])


def test_image_and_mask_are_cut_alike(rng):
    """The mask of a picture of its own classes says what the picture shows, wherever and however large it was cut."""
    mask = np.kron(rng.integers(0, 4, (3, 3)), np.ones((32, 32))).astype(np.uint8)
    image = np.repeat((60 * mask)[..., None], 3, axis=2)
    seen = 0
    for _ in range(30):
        found, labels = decode.random_scale_crop(rng, image, mask, (48, 40))
        counts = labels != decode.IGNORE
        seen += counts.sum()
        assert (found[~counts] == decode.FILL).all()
        agree = np.abs(found[..., 0].astype(int) - 60 * labels.astype(int))[counts] < 30
        assert agree.mean() > 0.8  # all but the borders, which the image mixes
    assert seen > 0


def test_the_whole_image_is_kept(rng):
    image, mask = np.full((20, 40, 3), 7, np.uint8), np.full((20, 40), 3, np.uint8)
    found, labels = decode.whole(image, mask, (32, 32))
    assert (labels[:16] == 3).all() and (labels[16:] == decode.IGNORE).all()
    assert (found[:16] == 7).all() and (found[16:] == decode.FILL).all()


def test_classes_of_ade20k_count_from_0_and_its_0_does_not():
    mask = np.array([[0, 1], [150, 151]], np.uint8)
    np.testing.assert_array_equal(ade20k.labels(mask, (2, 2)), [[255, 0], [149, 255]])
    colour = np.stack([mask, mask[::-1], mask[::-1]], axis=2)
    np.testing.assert_array_equal(ade20k.labels(colour, (2, 2)), [[255, 0], [149, 255]])
    assert ade20k.labels(mask, (5, 7)).shape == (5, 7)


def test_the_published_folder_is_read(rng, tmp_path):
    for kind in ("images", "annotations"):
        (tmp_path / kind / "training").mkdir(parents=True)
    image, mask = rng.integers(0, 255, (30, 40), np.uint8), rng.integers(0, 150, (30, 40), np.uint8)
    for name in ("b", "a"):
        Image.fromarray(image).save(tmp_path / f"images/training/{name}.jpg")
        Image.fromarray(mask).save(tmp_path / f"annotations/training/{name}.png")
    folder = ade20k.Folder(tmp_path, "training")
    assert len(folder) == 2 and folder.names == ["a", "b"]
    assert folder[0]["image"].shape == (30, 40, 3)
    np.testing.assert_array_equal(folder[0]["annotation"], mask)
    with pytest.raises(FileNotFoundError, match="ADEChallengeData2016"):
        len(ade20k.Folder(tmp_path, "validation"))


def test_on_the_mock_of_tfds(monkeypatch):
    monkeypatch.setattr(data, "_prepared_version", lambda name, folder: "*.*.*")
    tfds = data._tfds()
    with tfds.testing.mock_data(num_examples=9):
        records = open_tfds("imagenet2012", "train", "unused")
    stream = Stream(records, partial(imagenet.for_training, (16, 16)))
    batches = list(stream.epoch(4, 0, 1))
    assert len(batches) == 2 and batches[0]["image"].shape == (4, 16, 16, 3) and batches[0]["label"].dtype == np.int32
    same(batches[1:], stream.epoch(4, 0, 1, start=1))
