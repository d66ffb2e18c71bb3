"""Networks on an integer grid: the same output, bit for bit, in every runtime."""

from mecq_jax.export._integer_grid._convert import Grid as Grid
from mecq_jax.export._integer_grid._convert import integer_grid as integer_grid
from mecq_jax.export._integer_grid._convert import snap as snap
from mecq_jax.export._integer_grid._interpreter import InexactError as InexactError
