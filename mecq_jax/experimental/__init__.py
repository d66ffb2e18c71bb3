"""What no hardware has run yet."""

from mecq_jax.experimental._packed_matmul import Arranged as Arranged
from mecq_jax.experimental._packed_matmul import arrange as arrange
from mecq_jax.experimental._packed_matmul import packed_matmul as packed_matmul
