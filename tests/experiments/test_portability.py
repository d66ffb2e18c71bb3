"""The portability table, at small size."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mecq_reader
from experiments.config import Config
from experiments.models import small as models
from experiments.portability import check as portability
from experiments.reporting.rows import table
from experiments.tasks.classification import make_task
from experiments.training.run import run, unflatten
from mecq_jax import export, nn

pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_a_network_is_the_same_in_every_runtime():
    config = dataclasses.replace(portability.MODELS["MLP"], width=32, float_epochs=1, train_size=400)
    rows = portability.one_network("MLP", config, [8])
    assert [(row["k"], row["groups"]) for row in rows] == [(8, "tensor"), (8, "channel")]
    for row in rows:
        assert row["reader"] == row["stablehlo"] == row["grid"] == 0.0 and row["onnxruntime"] < 1e-5
        assert abs(row["grid_accuracy"] - row["accuracy"]) < 0.05 and row["grid_bits"] <= 24
        assert row["onnx_bits"] == 3
        assert row["file_bytes"] < row["float_bytes"]
    text = table(portability.COLUMNS, rows).splitlines()
    assert len(text) == 2 + 2 and "| 3 | channel |" in text[-1] and "same bits" in text[-1]


@pytest.mark.parametrize("name", [n for n in models.MODELS if n != "resnet20"])
def test_every_model_is_exported(name, tmp_path):
    """ResNet-20 is ResNet-8 with more blocks."""
    model = models.build(name, 3, 8, 10, 6, seed=0)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    assert export.onnx(tmp_path / "m.onnx", nn.forward(model), nn.harden(model), x) > 0


def test_a_changed_class_is_an_error():
    logits = np.eye(3, dtype=np.float32)
    assert portability.difference(logits, logits, 0.0, "x") == 0.0
    with pytest.raises(export.MismatchError, match="x: 1 of 3 images"):
        portability.difference(logits, logits[[0, 1, 1]], 0.0, "x")
    with pytest.raises(export.MismatchError, match="differs from JAX"):
        portability.difference(logits * 1.001, logits, 1e-5, "x")


def test_the_librarys_forward_opens_what_the_trainer_wrote(tmp_path):
    """A run names its arrays as the model does, so that both roads share one file and one forward."""
    config = Config(train_size=128, batch=64, width=4, float_epochs=1, soft_epochs=1, hard_epochs=1)
    task = make_task(config)
    run(config, tmp_path / "run", task=task)
    dense = mecq_reader.read_dense(tmp_path / "run" / "model.safetensors")
    model = nnx.merge(task.graphdef, nnx.State(task.params), nnx.State(task.model_state))
    assert set(nn.parameters_by_path(model)) < set(dense)
    images = next(iter(task.test.once(8)))["image"]
    arrays = {name: jnp.asarray(array) for name, array in dense.items()}
    expected = task.logits(*unflatten(dense, task), images)
    np.testing.assert_allclose(nn.forward(model)(arrays, task.inputs(images)), expected, rtol=1e-5, atol=1e-5)
    before = {("state/" if name.endswith(("mean", "var")) else "params/") + name: x for name, x in dense.items()}
    for one, other in zip(
        jax.tree.leaves(unflatten(before, task)), jax.tree.leaves(unflatten(dense, task)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
