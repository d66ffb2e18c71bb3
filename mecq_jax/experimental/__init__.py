"""What no hardware has run yet: the product with packed weights on TPU and GPU.

It is tested in Pallas's interpreter and lowered for both; names here may change without notice.
"""

from mecq_jax.experimental._arranged import Arranged as Arranged
from mecq_jax.experimental._arranged import arrange as arrange
from mecq_jax.experimental._packed_matmul import packed_matmul as packed_matmul
