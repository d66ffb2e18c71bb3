"""Language modelling as pure functions: the next character of a text, judged by bits per character."""

import dataclasses
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.config import Config
from experiments.data import text
from experiments.models import llama
from experiments.tasks import base as task
from experiments.tasks.base import parts, refuse, rest_of

# With `train_size`, for trials and small machines, the test part is cut too.
QUICK_TEST = 200_000
_OF_IMAGES = ("augment", "downscale", "size", "test_size", "label_smoothing", "mixup", "workers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(task.Task):
    """A text and a network that gives a logit for each symbol as the next one.

    The figure is the mean of -log2 p(token | the tokens before it in its window) over the windows of `test`: the whole
    test part, or its first `QUICK_TEST` characters where the config has a `train_size`. Windows do not overlap, so that
    on average half of `context` stands before a character; a longer look back gives less.
    """

    source: text.Text
    measure: ClassVar[str] = "bits_per_character"
    test_batch: ClassVar[int] = 64

    @cached_property
    def train(self) -> text.Windows:
        return text.Windows(self.source.train, self.config.context)

    @cached_property
    def test(self) -> text.Windows:
        size = None if self.config.train_size is None else QUICK_TEST
        return text.Windows(self.source.test[:size], self.config.context)

    def losses(self, model: Any, tokens: jax.Array) -> jax.Array:
        """-ln p of every token of windows [b, context + 1] but the first, [b, context], float32."""
        tokens = tokens.astype(jnp.int32)
        logits = model(tokens[:, :-1]).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])

    def loss_fn(self, params, model_state, batch, rng):
        """Mean cross-entropy of the next token, nats."""
        model = self.model(params, model_state, training=True)
        loss = self.losses(model, batch["tokens"]).mean()
        return loss, (rest_of(model), {"train_bits_per_character": loss / jnp.log(2.0)})

    def output(self, params, model_state, batch):
        """-log2 p of every predicted token, [b, context]."""
        return self.losses(self.model(params, model_state, training=False), batch["tokens"]) / jnp.log(2.0)

    def score(self, outputs: np.ndarray) -> float:
        """Bits per character."""
        return float(np.mean(outputs, dtype=np.float64))


def make_task(config: Config) -> Task:
    """Load the text and build the model that `config` names."""
    refuse(config, _OF_IMAGES, "it is of tasks on images")
    source = text.load(config.dataset, config.data_dir, config.train_size)
    model = llama.build(config.model, len(source.symbols), config.width, config.seed)
    return Task(config=config, source=source, **parts(model))
