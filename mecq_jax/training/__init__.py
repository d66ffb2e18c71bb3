"""Training: the steps of the three phases, schedules, optimizers, losses, many devices."""

from mecq_jax.training._batch_norm import reestimate_batch_stats as reestimate_batch_stats
from mecq_jax.training._losses import coding_length as coding_length
from mecq_jax.training._losses import distillation as distillation
from mecq_jax.training._optimizers import optimizers as optimizers
from mecq_jax.training._schedules import geometric_decay as geometric_decay
from mecq_jax.training._sharding import Layout as Layout
from mecq_jax.training._sharding import Split as Split
from mecq_jax.training._sharding import fully_sharded as fully_sharded
from mecq_jax.training._steps import Batch as Batch
from mecq_jax.training._steps import LossFn as LossFn
from mecq_jax.training._steps import Metrics as Metrics
from mecq_jax.training._steps import Steps as Steps
from mecq_jax.training._steps import TrainState as TrainState
