"""A decoder of the Llama kind (arXiv 2302.13971) as pure functions of its arrays by path.

    x_0 = E[tokens];   y = x + attention(norm(x)),   x' = y + W_down(silu(W_gate n) * W_up n) with n = norm(y)

norm is RMSNorm (arXiv 1910.07467), positions are rotary (arXiv 2104.09864), the head is the embedding's transpose.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from examples.tiny_stories.llama2c import BOS, Shape

Arrays = Mapping[str, Array]
Caches = list[tuple[Array, Array]]  # of each layer keys and values [b, context, heads, d]


def norm(x: Array, scale: Array) -> Array:
    """x [..., w] over its root mean square."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5) * scale


def rotate(x: Array, position: Array) -> Array:
    """x [b, t, heads, d]: at position p [t] the pair (x_2i, x_2i+1) is turned by the angle p 10000^(-2i/d)."""
    d = x.shape[3]
    angle = (position[:, None] * 10_000.0 ** (-jnp.arange(0, d, 2) / d))[None, :, None]
    even, odd, cos, sin = x[..., 0::2], x[..., 1::2], jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def forward(shape: Shape, arrays: Arrays, tokens: Array, start: Array | int = 0, caches: Caches | None = None):
    """tokens [b, t], the first of them at position `start` -> (logits of the token after each [b, t, v], caches).

    caches: with the tokens before `start`; None: there are none.
    """
    b, t = tokens.shape
    position = start + jnp.arange(t)
    x, new = arrays["embed/kernel"][tokens], []
    for i in range(shape.depth):
        p = {name.removeprefix(f"blocks/{i}/"): a for name, a in arrays.items() if name.startswith(f"blocks/{i}/")}
        n = norm(x, p["attention_norm/scale"])
        q, k, v = ((n @ p[f"{name}/kernel"]).reshape(b, t, shape.heads, -1) for name in ("query", "key", "value"))
        q, k = rotate(q, position), rotate(k, position)
        if caches is not None:
            k, v = (jax.lax.dynamic_update_slice_in_dim(c, x, start, 1) for c, x in zip(caches[i], (k, v), strict=True))
        new.append((k, v))
        seen = jnp.arange(k.shape[1])[None] <= position[:, None]
        mixed = jax.nn.dot_product_attention(q, k, v, mask=seen[None, None])
        x = x + mixed.reshape(b, t, -1) @ p["out/kernel"]
        n = norm(x, p["norm/scale"])
        x = x + (jax.nn.silu(n @ p["gate/kernel"]) * (n @ p["up/kernel"])) @ p["down/kernel"]
    return norm(x, arrays["norm/scale"]) @ arrays["embed/kernel"].T, new


@partial(jax.jit, static_argnames=("shape", "length", "temperature"))
def write(shape: Shape, arrays: Arrays, start: Array, length: int, temperature: float, key: Array) -> Array:
    """Texts [b, length] that go on from the tokens start [b, p]; temperature 0 takes the most probable token."""
    b, p = start.shape
    empty = jnp.zeros((b, length, shape.heads, shape.width // shape.heads))

    def step(carry, key):
        logits, caches, at = carry
        token = jax.random.categorical(key, logits / temperature) if temperature else logits.argmax(axis=-1)
        logits, caches = forward(shape, arrays, token[:, None], at, caches)
        return (logits[:, 0], caches, at + 1), token

    logits, caches = forward(shape, arrays, start, 0, [(empty, empty)] * shape.depth)
    _, new = jax.lax.scan(step, (logits[:, -1], caches, p), jax.random.split(key, length - p))
    return jnp.concatenate([start, new.T], axis=1)


def sample(shape: Shape, arrays: Arrays, count: int, seed: int, at_once: int = 64) -> np.ndarray:
    """`count` texts of the context's length at temperature 1, each from a BOS."""
    keys = jax.random.split(jax.random.key(seed), -(-count // at_once))
    start = jnp.full((min(at_once, count), 1), BOS)
    return np.concatenate([write(shape, arrays, start, shape.context, 1.0, key) for key in keys])[:count]


@partial(jax.jit, static_argnames="shape")
def loss(shape: Shape, arrays: Arrays, texts: Array) -> Array:
    """Mean cross-entropy of every token of texts [b, t] but the first, nats."""
    logits, _ = forward(shape, arrays, texts[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, texts[:, 1:]).mean()


def perplexity(shape: Shape, arrays: Arrays, texts: np.ndarray, batch: int = 8) -> float:
    """exp of the mean cross-entropy over all texts."""
    parts = [texts[i : i + batch] for i in range(0, len(texts), batch)]
    losses = [float(loss(shape, arrays, part)) for part in parts]
    return float(np.exp(np.average(losses, weights=[len(part) for part in parts])))
