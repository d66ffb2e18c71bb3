"""What baselines with equally spaced levels share."""

import abc

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from mecq_jax.quantizers._straight_through import StraightThrough
from mecq_jax.quantizers._types import Groups, Levels, Params, State


def spread(codes: Integer[Array, "g n"], k: int) -> Groups:
    """The codes 0 to k - 1 as numbers from -1 to 1."""
    return (2 * codes.astype(jnp.float32) - (k - 1)) / (k - 1)


def fitted_scale(w: Groups, shape: Groups) -> Float[Array, " g"]:
    """argmin_a |w - a shape|^2 of each group, at least 1e-8: what a published method leaves to the batch norm behind.

    With it, layers without batch norm and networks that come from float keep their scale.
    """
    dot, square = jnp.sum(w * shape, axis=1), jnp.sum(jnp.square(shape), axis=1)
    return jnp.maximum(dot / jnp.maximum(square, 1e-30), 1e-8)


class Uniform(StraightThrough):
    """Evenly spaced levels: `_hard` computes them from their numbers, which costs no gather."""

    @abc.abstractmethod
    def _hard(self, codes: Integer[Array, "#g n"], params: Params, state: State) -> Groups:
        """levels[codes], by the equation of the levels."""

    def levels(self, params: Params, state: State) -> Levels:
        """The levels of all k codes."""
        return self._hard(jnp.arange(self.k)[None], params, state)
