"""Transformers as others publish them that give a vector for each example, as ordinary NNX modules: what their trained
weights need, nothing of ours."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int


def attend(query: Array, key: Array, value: Array, heads: int, mask: Bool[Array, "b t"] | None = None) -> Array:
    """softmax(q k^T / sqrt(d)) v of each head, [b, t, width]; keys where the mask is False are not looked at."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
    of_keys = None if mask is None else mask[:, None, None]  # the same for all heads and queries
    return jax.nn.dot_product_attention(q, k, v, mask=of_keys).reshape(query.shape)


class DinoBlock(nnx.Module):
    """Norms before, and a scale for each channel after, attention and the dense layers (Touvron et al., 2021, arXiv
    2103.17239); one layer gives queries, keys and values."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.heads = heads
        self.norm1, self.norm2 = (nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs) for _ in range(2))
        self.qkv, self.out = nnx.Linear(width, 3 * width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)
        self.scale1, self.scale2 = (nnx.Param(jnp.ones(width, jnp.float32)) for _ in range(2))

    def __call__(self, x: Float[Array, "b t w"]) -> Float[Array, "b t w"]:
        query, key, value = jnp.split(self.qkv(self.norm1(x)), 3, axis=2)
        mixed = attend(query, key, value, self.heads)
        x = x + self.scale1[...] * self.out(mixed)
        return x + self.scale2[...] * self.down(nnx.gelu(self.up(self.norm2(x)), approximate=False))


class DinoV2(nnx.Module):
    """DINOv2's ViT with registers (Oquab et al., 2023, arXiv 2304.07193; Darcet et al., 2023, arXiv 2309.16588): the
    class token's last state. By default ViT-S/14.

    Positions were learned for `grid` x `grid` patches; for other images they are resized by cubic interpolation, as
    published. Images: a multiple of `patch` pixels on a side.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        patch: int = 14,
        grid: int = 37,
        registers: int = 4,
    ):
        normal = nnx.initializers.truncated_normal(0.02)
        self.first = nnx.Conv(3, width, (patch, patch), strides=patch, padding="VALID", rngs=rngs)
        self.token, self.registers, self.positions = (
            nnx.Param(normal(rngs.params(), (1, count, width), jnp.float32)) for count in (1, registers, grid**2 + 1)
        )
        self.blocks = nnx.List([DinoBlock(width, heads, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.grid = grid

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b width"]:
        x = self.first(x)
        b, h, w, width = x.shape
        of_token, of_patches = self.positions[:, :1], self.positions[:, 1:].reshape(1, self.grid, self.grid, width)
        of_patches = jax.image.resize(of_patches, (1, h, w, width), "cubic")
        patches = (x + of_patches).reshape(b, h * w, width)
        own = [jnp.broadcast_to(y, (b, *y.shape[1:])) for y in (self.token[...] + of_token, self.registers[...])]
        x = jnp.concatenate([*own, patches], axis=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])


class BertBlock(nnx.Module):
    """Attention and two dense layers, a norm after each sum."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.heads = heads
        self.query, self.key, self.value, self.out = (nnx.Linear(width, width, rngs=rngs) for _ in range(4))
        self.norm1, self.norm2 = (nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs) for _ in range(2))
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "b t w"], mask: Bool[Array, "b t"]) -> Float[Array, "b t w"]:
        mixed = attend(self.query(x), self.key(x), self.value(x), self.heads, mask)
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.down(nnx.gelu(self.up(x), approximate=False)))


class SentenceBert(nnx.Module):
    """BERT (Devlin et al., 2018, arXiv 1810.04805) and the mean of its last states over a text's tokens (Reimers and
    Gurevych, 2019, arXiv 1908.10084). By default all-MiniLM-L6-v2. Tokens of id 0 fill up a text that is shorter."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        symbols: int = 30522,
        width: int = 384,
        depth: int = 6,
        heads: int = 12,
        context: int = 512,
    ):
        self.words, self.positions, self.kinds = (nnx.Embed(n, width, rngs=rngs) for n in (symbols, context, 2))
        self.norm = nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs)
        self.blocks = nnx.List([BertBlock(width, heads, rngs) for _ in range(depth)])

    def __call__(self, tokens: Int[Array, "b t"]) -> Float[Array, "b width"]:
        mask = tokens != 0
        places = jnp.arange(tokens.shape[1])[None]
        x = self.norm(self.words(tokens) + self.positions(places) + self.kinds(jnp.zeros_like(places)))
        for block in self.blocks:
            x = block(x, mask)
        counted = mask[:, :, None].astype(x.dtype)
        return (x * counted).sum(axis=1) / counted.sum(axis=1)


EMBEDDERS: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {"dinov2_s": DinoV2, "minilm_l6": SentenceBert}
