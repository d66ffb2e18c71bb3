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

THETA = 10_000.0


def rotate(x: Float[Array, "b t h d"]) -> Float[Array, "b t h d"]:
    """Position p turns the pair (x_2i, x_2i+1) by the angle p theta^(-2i/d).

    Pairs are neighbours, as in llama2.c. The product of a query and a key then depends on their distance alone.
    Source: Su et al., 2021, arXiv 2104.09864, equation 34.
    """
    t, d = x.shape[1], x.shape[3]
    angle = jnp.arange(0, d, 2, dtype=jnp.float32) / d
    position = jnp.arange(t).astype(jnp.float32)
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

    def __call__(self, x: Float[Array, "b t w"]) -> Float[Array, "b t w"]:
        b, t, w = x.shape
        q, k, v = (layer(x).reshape(b, t, self.heads, -1) for layer in (self.query, self.key, self.value))
        mixed = jax.nn.dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        return self.out(mixed.reshape(b, t, w))


class Block(nnx.Module):
    """Attention and a gated layer, each on the norm of the stream that it adds to."""

    def __init__(self, width: int, heads: int, hidden: int, rngs: nnx.Rngs):
        norm = partial(nnx.RMSNorm, width, epsilon=1e-5, rngs=rngs)
        self.attention_norm, self.norm = norm(), norm()
        self.attention = Attention(width, heads, rngs)
        self.gate = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(hidden, width, use_bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "b t w"]) -> Float[Array, "b t w"]:
        x = x + self.attention(self.attention_norm(x))
        n = self.norm(x)
        return x + self.down(nnx.silu(self.gate(n)) * self.up(n))


class Llama(nnx.Module):
    """tokens [b, t] -> logits of the token after each, [b, t, vocabulary].

    The gated layer has 8/3 of `width`, up to a multiple of 32, so that its three matrices have as many weights as two
    of 4 widths.
    """

    def __init__(self, vocabulary: int, width: int, rngs: nnx.Rngs, depth: int = 4, heads: int | None = None):
        heads = heads or max(width // 64, 1)
        if width % (2 * heads):
            raise ValueError(
                f"width = {width} is not cut into {heads} heads of even size; choose a multiple of {2 * heads}"
            )
        self.embed = Embedding(vocabulary, width, rngs)
        hidden = -(-8 * width // 96) * 32
        self.blocks = nnx.List([Block(width, heads, hidden, rngs) for _ in range(depth)])
        self.norm = nnx.RMSNorm(width, epsilon=1e-5, rngs=rngs)
        self.head = nnx.Linear(width, vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t v"]:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


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
