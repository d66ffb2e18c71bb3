"""Rounding and transport without training, against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from mecq_jax import post_training
from mecq_jax.granularity import PerChannel, PerTensor
from mecq_jax.params import Rule
from mecq_jax.quantizers import MEC
from mecq_jax.quantizers.baselines import LSQ, STE

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel()])
def test_round_to_nearest_against_numpy(rng, granularity):
    params = {"a": {"kernel": jnp.asarray(rng.standard_t(3, size=(3, 3, 4, 5)), jnp.float32)}}
    w = np.float64(params["a"]["kernel"])
    rules = [Rule("a/kernel", STE(k=8, granularity=granularity))]
    axes = None if isinstance(granularity, PerTensor) else (0, 1, 2)
    largest = np.abs(w).max(axis=axes, keepdims=True)

    def rounded(bound):
        levels = bound[..., None] * (2 * np.arange(8) - 7) / 8
        at = np.abs(w[..., None] - levels).argmin(axis=-1)
        return np.take_along_axis(np.broadcast_to(levels, (*w.shape, 8)), at[..., None], -1)[..., 0]

    got = post_training.round_to_nearest(params, rules).hard(params)["a"]["kernel"]
    np.testing.assert_allclose(got, rounded(largest), atol=1e-5)
    tried = np.stack([np.square(w - rounded(largest * i / 100)).sum(axis=axes) for i in range(1, 101)])
    best = post_training.round_to_nearest(params, rules, "least_squares").hard(params)["a"]["kernel"]
    np.testing.assert_allclose(np.square(w - best).sum(axis=axes), tried.min(axis=0), rtol=1e-4)
    with pytest.raises(ValueError, match="bound 'mse'"):
        post_training.round_to_nearest(params, rules, "mse")
    with pytest.raises(ValueError, match=r"a/kernel has the quantizer .* give it STE"):
        post_training.round_to_nearest(params, [Rule("a/kernel", LSQ(k=8))])


def test_transport_without_masses_is_the_nearest_level(rng):
    params = {"a": {"kernel": jnp.asarray(rng.normal(size=(20, 30)), jnp.float32)}}
    w = np.asarray(params["a"]["kernel"])
    found = post_training.transport_weights(params, [Rule("a/kernel", MEC(k=4, balance=0.0))], 1e-4)
    levels = np.asarray(found.parameters["a/kernel"]["levels"])[0]
    np.testing.assert_array_equal(found.codes["a/kernel"], np.abs(w[..., None] - levels).argmin(axis=-1))
    np.testing.assert_array_equal(found.hard(params)["a"]["kernel"], levels[found.codes["a/kernel"]])
    with pytest.raises(ValueError, match="temperature = 0"):
        post_training.transport_weights(params, [Rule("a/kernel", MEC(k=4))], 0.0)


def test_transport_keeps_its_masses(rng):
    params = {"a": {"kernel": jnp.asarray(rng.normal(size=(20, 40)), jnp.float32)}}
    w = np.asarray(params["a"]["kernel"])
    equal = post_training.transport_weights(params, [Rule("a/kernel", MEC(k=4, codebook="quantile"))])
    codes = np.asarray(equal.codes["a/kernel"])
    assert np.abs(np.bincount(codes.ravel()) - 200).max() <= 1
    order = np.argsort(w, axis=None)
    assert (np.diff(codes.ravel()[order].astype(int)) >= 0).all(), "cells are intervals"
    least = post_training.transport_weights(params, [Rule("a/kernel", MEC(k=4, prior="lloyd_max"))])
    levels = np.asarray(least.parameters["a/kernel"]["levels"])[0]
    nearest = np.abs(w[..., None] - levels).argmin(axis=-1)
    assert np.mean(np.asarray(least.codes["a/kernel"]) != nearest) < 0.005
    errors = [np.square(w - q.hard(params)["a"]["kernel"]).mean() for q in (least, equal)]
    assert errors[0] < errors[1]
