"""Quantization of a trained network without training: by rounding, or by transport."""

from mecq_jax.post_training._rounding import BOUNDS as BOUNDS
from mecq_jax.post_training._rounding import least_squares_bound as least_squares_bound
from mecq_jax.post_training._rounding import round_to_nearest as round_to_nearest
from mecq_jax.post_training._transport import transport_weights as transport_weights
