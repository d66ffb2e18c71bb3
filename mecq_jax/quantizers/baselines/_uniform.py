"""What baselines with equally spaced levels share."""

import abc

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from mecq_jax.quantizers._base import Params, State
from mecq_jax.quantizers._straight_through import Groups, Levels, StraightThrough


def spread(codes: Array, k: int) -> Array:
    """The codes 0 to k - 1 as numbers from -1 to 1."""
    return (2 * codes.astype(jnp.float32) - (k - 1)) / (k - 1)


def fitted_scale(w: Groups, shape: Float[Array, "g n"]) -> Float[Array, " g"]:
    """argmin_a |w - a shape|^2 of each group, at least 1e-8: what a published method leaves to the batch norm behind.

    With it, layers without batch norm and networks that come from float keep their scale.
    """
    dot, square = jnp.sum(w * shape, axis=1), jnp.sum(jnp.square(shape), axis=1)
    return jnp.maximum(dot / jnp.maximum(square, 1e-30), 1e-8)


class Uniform(StraightThrough):
    """Evenly spaced levels: `_hard` computes them from their numbers, which costs no gather."""

    @abc.abstractmethod
    def _hard(self, codes: Num[Array, "g n"], params: Params, state: State) -> Groups: ...

    def levels(self, params: Params, state: State) -> Levels:
        return self._hard(jnp.arange(self.k)[None], params, state)
