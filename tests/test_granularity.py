"""Groups of weights that share levels."""

import jax.numpy as jnp
import numpy as np
import pytest

from mecq_jax.granularity import (
    PerBlock,
    PerChannel,
    PerTensor,
    describe,
    from_groups,
    from_spec,
    group_shape,
    to_groups,
    to_spec,
)

pytestmark = pytest.mark.fast
X = np.arange(3 * 3 * 4 * 6, dtype=np.float32).reshape(3, 3, 4, 6)


ALL = [PerTensor(), PerChannel(), PerChannel(0), PerChannel(2), PerBlock(9), PerBlock(6, 0)]


@pytest.mark.parametrize("granularity", ALL, ids=str)
def test_round_trip(granularity):
    groups = to_groups(jnp.asarray(X), granularity)
    assert groups.shape == group_shape(X.shape, granularity)
    np.testing.assert_array_equal(from_groups(groups, X.shape, granularity), X)
    assert from_spec(to_spec(granularity)) == granularity


def test_layout():
    np.testing.assert_array_equal(to_groups(jnp.asarray(X), PerChannel())[4], X[..., 4].ravel())
    np.testing.assert_array_equal(to_groups(jnp.asarray(X), PerBlock(9))[5], X[..., 1].ravel()[9:18])


def test_misuse():
    with pytest.raises(ValueError, match=r"nearest sizes that do are \[6, 9, 12\]|nearest"):
        group_shape(X.shape, PerBlock(10))
    with pytest.raises(ValueError, match="outside"):
        group_shape(X.shape, PerChannel(4))
    with pytest.raises(ValueError, match="no weights"):
        group_shape((0, 3), PerTensor())
    with pytest.raises(ValueError, match="not one of"):
        from_spec({"kind": "PerRow"})
    with pytest.raises(TypeError, match="PerTensor, PerChannel or PerBlock"):
        describe("PerRow")
    with pytest.raises(ValueError, match="do not fit"):
        from_groups(jnp.zeros((2, 3)), (2, 4), PerChannel(0))
