"""Losses that go with the task's: entropy is in `tree.mean_entropy`; here are distillation and coding length."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def distillation(
    logits: Float[Array, "... c"], teacher: Float[Array, "... c"], temperature: float = 1.0
) -> Float[Array, ""]:
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)), mean over the leading axes; no gradient to the teacher.

    Source: Hinton, Vinyals and Dean, 2015, arXiv 1503.02531.
    """
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}: it must be above 0 (1 leaves the logits as they are)")
    teacher = jax.nn.log_softmax(jax.lax.stop_gradient(teacher) / temperature)
    student = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1))


def coding_length(z: Float[Array, "m d"], distortion: float = 0.5) -> Float[Array, ""]:
    """R(Z) = (m + d)/2 logdet(I + d / (m eps^2) Z^T Z) for rows of Z scaled to length 1; to be maximised.

    The objective of the abstract published as MEC-Quant (arXiv 2509.15514), formula from Liu et al., NeurIPS 2022
    (arXiv 2210.11464). The determinant is taken on the smaller of Z^T Z and Z Z^T, which have the same one.

    Args:
      z: representations, one a row.
      distortion: eps, the coding error allowed, above 0.
    """
    if not distortion > 0:
        raise ValueError(f"distortion = {distortion}: it must be above 0")
    m, d = z.shape
    z = z.astype(jnp.float32)
    z = z * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(z), axis=1, keepdims=True), 1e-12))
    gram = z.T @ z if d <= m else z @ z.T
    eye = jnp.eye(gram.shape[0], dtype=gram.dtype)
    return (m + d) / 2 * jnp.linalg.slogdet(eye + d / (m * distortion**2) * gram)[1]
