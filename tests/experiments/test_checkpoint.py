"""The store of checkpoints: whole or not at all, never wrong, the last and the best, on any devices."""

import os
import resource
import shutil
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mecq_jax.training import CheckpointError, Checkpoints, host_copy

# At an error orbax closes its event loop while other files are being read or written; their callbacks then complain.
noisy = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def flip(path: Path, where: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 16
    path.write_bytes(data)


def some_state(seed=0, size=300):
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "w": jax.random.normal(keys[0], (size, 8)),
        "h": jax.random.normal(keys[1], (5,), jnp.bfloat16),
        "codes": jnp.arange(7, dtype=jnp.uint8),
        "step": jnp.int32(seed),
        "rng": keys[2],
    }


def assert_same(got, expected):
    jax.tree.map(np.testing.assert_array_equal, host_copy(got), host_copy(expected))


@noisy
def test_whatever_file_is_damaged_the_state_is_never_wrong(tmp_path):
    states = {step: some_state(step) for step in (1, 2)}
    with Checkpoints(tmp_path / "whole") as store:
        for step, state in states.items():
            store.save(step, state, {"epoch": step})
    latest = tmp_path / "whole" / "2"
    paths = [p.relative_to(latest) for p in sorted(latest.rglob("*")) if p.is_file()]
    damages = {
        "flip": lambda p: flip(p, 0.6),
        "cut": lambda p: os.truncate(p, p.stat().st_size // 2),
        "delete": os.unlink,
    }
    fell_back = 0
    for path in paths:
        for name, damage in damages.items():
            folder = tmp_path / "damaged"
            shutil.copytree(tmp_path / "whole", folder)
            damage(folder / "2" / path)
            with Checkpoints(folder) as store, warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                found = store.restore(states[2])
                assert found.about == {"epoch": found.step} and found.step in (1, 2), (path, name)
                assert_same(found.state, states[found.step])
                store.save(3, states[2])
            if found.step == 1:
                fell_back += 1
                assert f"{folder / '2'} is damaged" in str(warned[0].message)
                assert f"goes on from {folder / '1'}" in str(warned[0].message)
            assert store.steps()[-1] == 3
            shutil.rmtree(folder)
    assert fell_back >= 6


def test_no_whole_checkpoint_is_an_error(tmp_path):
    with Checkpoints(tmp_path) as store:
        store.save(1, some_state())
    (tmp_path / "1" / "about" / "metadata").unlink()
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole"):
        Checkpoints(tmp_path).restore(some_state())


def test_another_model_is_refused_and_nothing_is_moved(tmp_path):
    with Checkpoints(tmp_path) as store:
        store.save(1, some_state())
        with pytest.raises(ValueError, match=r"'w'.* is .*\[300, 8\]\] there and .*\[9, 8\]\] now"):
            store.restore(some_state(size=9))
        assert store.steps() == [1]


def test_the_last_two_and_the_best_are_kept(tmp_path):
    scores = [0.1, 0.9, None, 0.3, None, 0.9, 0.2, None, None]
    for part in (scores[:4], scores[4:]):
        with Checkpoints(tmp_path) as store:  # a new process knows the scores of the old
            for score in part:
                step = (store.steps() or [0])[-1] + 1
                store.save(step, some_state(step), score=score)
                store.wait()
            best = store.best()
    assert store.steps() == [6, 8, 9] and best == 6, "of equals the last"
    assert_same(Checkpoints(tmp_path).restore(some_state(), step=6).state, some_state(6))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["6", "8", "9"]


def test_the_next_step_takes_the_buffers_while_they_are_saved(tmp_path):
    """Donation happens, in place, before the background write is done, and the checkpoint has the values before it."""
    step = jax.jit(lambda x: jax.tree.map(lambda y: y * 2 + 1, x), donate_argnums=0)
    step({"x": jnp.zeros((4, 2_500_000))})
    state = jax.block_until_ready({"x": jax.random.normal(jax.random.key(0), (4, 2_500_000))})
    before, where = np.array(state["x"], copy=True), state["x"].unsafe_buffer_pointer()
    with Checkpoints(tmp_path) as store:
        store.save(1, state)
        after = jax.block_until_ready(step(state))
        assert not store.steps(), "still being written"
        assert state["x"].is_deleted() and after["x"].unsafe_buffer_pointer() == where
        np.testing.assert_array_equal(store.restore(after).state["x"], before)


def test_any_number_of_devices_reads_what_any_other_wrote(tmp_path):
    state = {"w": jnp.arange(64.0).reshape(16, 4), "key": jax.random.key(1)}

    def over(devices, axis):
        mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axis))
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        return {"w": jax.device_put(state["w"], spread), "key": jax.device_put(state["key"], whole)}

    layouts = [state, over(8, "data"), over(2, None)]
    for i, one in enumerate(layouts):
        with Checkpoints(tmp_path / str(i)) as store:
            store.save(1, one)
            for other in layouts:
                found = store.restore(other).state
                assert_same(found, state)
                assert all(found[k].sharding.is_equivalent_to(other[k].sharding, other[k].ndim) for k in state)


@noisy
def test_a_full_disk_in_the_middle_of_a_write(tmp_path):
    """The limit on a file's size stops tensorstore's own writes, as a full disk does."""
    state, limits = some_state(size=100_000), resource.getrlimit(resource.RLIMIT_FSIZE)
    store = Checkpoints(tmp_path)
    store.save(1, state)
    store.wait()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        with pytest.raises(CheckpointError, match=r"cannot write a checkpoint to .*\n.*step 1, is whole; free space"):
            store.save(2, state)
            store.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with Checkpoints(tmp_path) as store:
        found = store.restore(state)
        assert found.step == 1
        assert_same(found.state, state)
        store.save(2, state)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]
