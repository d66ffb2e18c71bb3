"""What differs from JAX is seen, and not written."""

import numpy as np
import pytest

from mecq_jax import export
from mecq_jax.granularity import PerTensor
from mecq_jax.storage import QuantizedTensor

pytestmark = pytest.mark.fast


def test_comparison():
    x = np.array([1.0, -np.inf, np.nan], np.float32)
    assert export.compare(x, x, 0.0, "x") == 0.0
    assert export.compare(np.float32([2.0, 1.0]), np.float32([2.0, 1.5]), 0.5, "x") == 0.25
    for found, expected in ((x, x[::-1]), (x[:0], x[:0]), (x.astype(np.float64), x), (x[:2], x)):
        with pytest.raises(export.MismatchError):
            export.compare(found, expected, 1e9, "x")


@pytest.mark.parametrize("write", [export.onnx, export.stablehlo])
def test_a_file_that_computes_something_else_is_not_written(write, tmp_path, rng):
    def fickle(arrays, x):
        symbolic = not isinstance(x.shape[0], int)
        return x @ arrays["w"] + (1.0 if symbolic else 0.0)

    codes, levels = rng.integers(0, 4, (1, 63), dtype=np.uint8), np.float32([[-1, -0.3, 0.3, 1]])
    tensor = QuantizedTensor(codes, levels, (9, 7), PerTensor())
    with pytest.raises(export.MismatchError, match="differs from JAX by"):
        write(tmp_path / "m", fickle, {"w": tensor}, rng.normal(size=(4, 9)).astype(np.float32))
    assert not list(tmp_path.iterdir())
