"""Decoder-only transformers of the Llama kind (Touvron et al., 2023, arXiv 2302.13971), by name.

    x_0 = E[tokens];   y = x + attention(norm(x)),   x' = y + W_down(silu(W_gate n) * W_up n) with n = norm(y)

norm is RMSNorm (arXiv 1910.07467), positions are rotary (arXiv 2104.09864), the gated layer is SwiGLU (arXiv
2002.05202); there are no biases. Every matrix but the embedding is an `nnx.Linear`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

Cache = tuple[Array, Array]  # keys and values [b, context, heads, d] of one layer
THETA = 10_000.0


def rotate(x: Float[Array, "b t h d"], start: Int[Array, ""] | int = 0) -> Float[Array, "b t h d"]:
    """Position p turns the pair (x_2i, x_2i+1) by the angle p theta^(-2i/d); the first of the t positions is `start`.

    Pairs are neighbours, as in llama2.c. The product of a query and a key then depends on their distance alone.
    Source: Su et al., 2021, arXiv 2104.09864, equation 34.
    """
    t, d = x.shape[1], x.shape[3]
    angle = jnp.arange(0, d, 2, dtype=jnp.float32) / d
    position = (start + jnp.arange(t)).astype(jnp.float32)
    angle = (position[:, None] * THETA ** -angle[None])[None, :, None]
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


class Embedding(nnx.Module):
    """The linear layer of a one-hot input: a row of its kernel [vocabulary, width] for each token."""

    def __init__(self, vocabulary: int, width: int, rngs: nnx.Rngs):
        self.kernel = nnx.Param(0.02 * jax.random.normal(rngs.params(), (vocabulary, width)))

    def __call__(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t w"]:
        return self.kernel[...][tokens]


class Attention(nnx.Module):
    """softmax(q k^T / sqrt(d)) v over each token and those before it, in heads of d = width / heads."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        linear = partial(nnx.Linear, width, width, use_bias=False, rngs=rngs)
        self.query, self.key, self.value, self.out = linear(), linear(), linear(), linear()
        self.heads = heads

    def __call__(self, x: Float[Array, "b t w"], start: Int[Array, ""] | int = 0, cache: Cache | None = None):
        """What the t tokens from `start` on attend to, [b, t, w], and the keys and values up to them.

        cache: those of the tokens before `start`; None: there are none.
        """
        b, t, w = x.shape
        q, k, v = (layer(x).reshape(b, t, self.heads, -1) for layer in (self.query, self.key, self.value))
        q, k = rotate(q, start), rotate(k, start)
        if cache is not None:
            k, v = (
                jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=1)
                for old, new in zip(cache, (k, v), strict=True)
            )
        seen = jnp.arange(k.shape[1])[None] <= start + jnp.arange(t)[:, None]
        mixed = jax.nn.dot_product_attention(q, k, v, mask=seen[None, None])
        return self.out(mixed.reshape(b, t, w)), (k, v)


class Block(nnx.Module):
    """Attention and a gated layer, each on the norm of the stream that it adds to."""

    def __init__(self, width: int, heads: int, hidden: int, rngs: nnx.Rngs):
        norm = partial(nnx.RMSNorm, width, epsilon=1e-5, rngs=rngs)
        self.attention_norm, self.norm = norm(), norm()
        self.attention = Attention(width, heads, rngs)
        self.gate = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(hidden, width, use_bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "b t w"], start: Int[Array, ""] | int = 0, cache: Cache | None = None):
        mixed, cache = self.attention(self.attention_norm(x), start, cache)
        x = x + mixed
        n = self.norm(x)
        return x + self.down(nnx.silu(self.gate(n)) * self.up(n)), cache


class Llama(nnx.Module):
    """tokens [b, t] -> logits of the token after each, [b, t, vocabulary].

    hidden: width of the gated layer (None: 8/3 of `width`, up to a multiple of 32, so that the three matrices have as
    many weights as two of 4 widths). tied: the head is the embedding's transpose.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        rngs: nnx.Rngs,
        depth: int = 4,
        heads: int | None = None,
        hidden: int | None = None,
        tied: bool = False,
    ):
        heads = heads or max(width // 64, 1)
        if width % (2 * heads):
            raise ValueError(
                f"width = {width} is not cut into {heads} heads of even size; choose a multiple of {2 * heads}"
            )
        self.embed = Embedding(vocabulary, width, rngs)
        hidden = hidden or -(-8 * width // 96) * 32
        self.blocks = nnx.List([Block(width, heads, hidden, rngs) for _ in range(depth)])
        self.norm = nnx.RMSNorm(width, epsilon=1e-5, rngs=rngs)
        self.head = None if tied else nnx.Linear(width, vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t v"]:
        x = self.embed(tokens)
        for block in self.blocks:
            x, _ = block(x)
        return self.logits(x)

    def step(self, tokens: Int[Array, "b t"], start: Int[Array, ""] | int, caches: list[Cache]):
        """The logits of tokens that follow `start` earlier ones, and the caches with theirs; see `empty_caches`."""
        x, new = self.embed(tokens), []
        for block, cache in zip(self.blocks, caches, strict=True):
            x, cache = block(x, start, cache)
            new.append(cache)
        return self.logits(x), new

    def logits(self, x: Float[Array, "b t w"]) -> Float[Array, "b t v"]:
        """The head on the last block's stream."""
        x = self.norm(x)
        return x @ self.embed.kernel[...].T if self.head is None else self.head(x)

    def empty_caches(self, batch: int, context: int) -> list[Cache]:
        """Caches for `batch` texts of `context` tokens."""
        heads, kernel = self.blocks[0].attention.heads, self.embed.kernel[...]
        empty = jnp.zeros((batch, context, heads, kernel.shape[1] // heads), kernel.dtype)
        return [(empty, empty) for _ in self.blocks]


MODELS: dict[str, Callable[..., nnx.Module]] = {
    "llama_tiny": partial(Llama, depth=2),
    "llama_small": partial(Llama, depth=4),
    "llama_base": partial(Llama, depth=12),
}


def build(name: str, vocabulary: int, width: int, seed: int) -> nnx.Module:
    """The model `name` with weights drawn from `seed`, for tokens from 0 to vocabulary - 1."""
    if name not in MODELS:
        raise ValueError(f"model {name!r} is not one of {sorted(MODELS)}")
    return MODELS[name](vocabulary, width, rngs=nnx.Rngs(jax.random.key(seed)))
