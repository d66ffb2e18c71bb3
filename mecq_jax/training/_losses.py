"""Losses that go with the task's beside `mecq_jax.params.mean_entropy`: distillation and coding length."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def distillation(
    logits: Float[Array, "... c"], teacher: Float[Array, "... c"], temperature: float = 1.0
) -> Float[Array, ""]:
    """Divergence of a network's softened prediction from its teacher's, mean over the leading axes.

        T^2 KL(softmax(teacher / T) || softmax(logits / T))

    Args:
      logits: [..., c].
      teacher: logits of the teacher, [..., c]; no gradient goes to them.
      temperature: T, above 0.

    Raises:
      ValueError: if the temperature is not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.training import distillation
      >>> logits = jnp.array([[0.0, 1.0, 2.0]])
      >>> float(distillation(logits, logits)), bool(distillation(logits, -logits, temperature=2.0) > 0.5)
      (0.0, True)

    Source: Hinton, Vinyals and Dean, 2015, arXiv 1503.02531.
    """
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}: it must be above 0 (1 leaves the logits as they are)")
    teacher = jax.nn.log_softmax(jax.lax.stop_gradient(teacher) / temperature)
    student = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1))


def coding_length(z: Float[Array, "m d"], distortion: float = 0.5) -> Float[Array, ""]:
    """Coding length of representations, their rows scaled to length 1; to be maximised.

        R(Z) = (m + d) / 2 log det(I + d / (m eps^2) Z^T Z)

    The determinant is taken on the smaller of Z^T Z and Z Z^T, which have the same one.

    Args:
      z: Z, one representation a row, [m, d].
      distortion: eps, the coding error allowed, above 0.

    Raises:
      ValueError: if the distortion is not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from mecq_jax.training import coding_length
      >>> spread, equal = jnp.eye(4), jnp.ones((4, 4))
      >>> bool(coding_length(spread) > coding_length(equal))
      True

    Source: Liu et al., NeurIPS 2022, arXiv 2210.11464; the objective of the abstract published as MEC-Quant, 2025,
    arXiv 2509.15514.
    """
    if not distortion > 0:
        raise ValueError(f"distortion = {distortion}: it must be above 0")
    m, d = z.shape
    z = z.astype(jnp.float32)
    z = z * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(z), axis=1, keepdims=True), 1e-12))
    gram = z.T @ z if d <= m else z @ z.T
    eye = jnp.eye(gram.shape[0], dtype=gram.dtype)
    determinant: Array = jnp.linalg.slogdet(eye + d / (m * distortion**2) * gram)[1]
    return (m + d) / 2 * determinant
