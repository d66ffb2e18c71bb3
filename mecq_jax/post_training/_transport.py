"""Transport of trained weights to levels, solved to the end."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jaxtyping import Array

from mecq_jax.params import Quantized, Rule, leaves_by_path
from mecq_jax.post_training._only import plan_of
from mecq_jax.quantizers import MEC, Params, Quantizer, State


def transport_weights(params: Any, rules: Sequence[Rule] | Quantizer, temperature: float = 1e-3) -> Quantized:
    """Each weight's most probable level in the assignment of maximum entropy, solved to the end; nothing is trained.

    Levels are where the quantizer's codebook starts them. With the prior None and 'quantile' levels these are the means
    of cells of equal mass; with the prior 'lloyd_max' and levels of that name, the least squared error of k levels.

    Args:
      params: a tree of arrays.
      rules: with `MEC` quantizers.
      temperature: epsilon / var(w) of each group, above 0; 1e-3 is nearly hard.

    Returns:
      The quantizers with their codes, as `round_to_nearest` gives them.

    Raises:
      ValueError: if the temperature is not above 0, or a rule names another quantizer.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mecq_jax import MEC, Rule
      >>> from mecq_jax.params import relative_squared_error
      >>> from mecq_jax.post_training import transport_weights
      >>> params = {"kernel": jax.random.normal(jax.random.key(0), (64, 64))}
      >>> quantized = transport_weights(params, [Rule("kernel", MEC(bits=2, prior="lloyd_max"))])
      >>> relative_squared_error(params["kernel"], quantized.hard(params)["kernel"]) < 0.12       # Lloyd-Max: 0.1175
      True
    """
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}: it must be above 0; 1e-3 is nearly hard")
    plan = plan_of(MEC, params, rules)
    leaves = leaves_by_path(params)
    solved = {path: _solved(q, temperature, leaves[path]) for path, q in plan.quantizers.items()}
    parameters, state = ({path: pair[i] for path, pair in solved.items()} for i in (0, 1))
    return Quantized(plan, parameters, state, {}).freeze(params)


@partial(jax.jit, static_argnums=(0, 1))
def _solved(quantizer: MEC, temperature: float, w: Array) -> tuple[Params, State]:
    return quantizer.init(w, temperature)
