"""QuantDense and QuantConv: `nnx.Linear` and `nnx.Conv` that compute with soft, or with hard weights.

Parameters, initialisers and options are those of the Flax layers. What a layer adds is a `Quantized` of its kernel, as
variables: the levels (`QuantizerParam`, trained), the quantizer's state (`QuantizerState`, carried), the codes once
they are frozen (`QuantizerCodes`), and the temperature.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mecq_jax.params import Plan, Quantized
from mecq_jax.quantizers import Diagnostics, Quantizer, init_jitted

START = 0.3  # the temperature before `set_temperature`


class QuantizerParam(nnx.Param[Array]):
    """Levels or steps: trained, with an optimizer group apart from the weights.

    Example:
      >>> from flax import nnx
      >>> from mecq_jax import MEC, nn
      >>> layer = nn.QuantDense(8, 4, quantizer=MEC(bits=2), rngs=nnx.Rngs(0))
      >>> kinds = nn.QuantizerParam, nn.QuantizerState, nn.QuantizerCodes, nn.Temperature, nn.QuantizerInfo
      >>> [len(nnx.to_flat_state(nnx.state(layer, kind))) for kind in kinds]      # no codes before `freeze`
      [1, 1, 0, 1, 1]
    """


class QuantizerState(nnx.Variable[Array]):
    """A quantizer's state: carried between steps, not trained. Example: see `QuantizerParam`."""


class QuantizerCodes(nnx.Variable[Array]):
    """The code of every weight, uint8, once they are frozen. Example: see `QuantizerParam`."""


class Temperature(nnx.Variable[Array]):
    """epsilon / var(w); written by `set_temperature`, read by each quantized layer. Example: see `set_temperature`."""


class QuantizerInfo(nnx.Variable[Diagnostics]):
    """The last application's `mecq_jax.quantizers.Diagnostics`. Example: see `QuantizerParam`."""


class QuantizedKernel(nnx.Module):
    """What QuantDense and QuantConv share: the quantizer's variables, and the kernel that the layer computes with."""

    # The attributes that `attach` adds to those of the Flax layer.
    ADDED = ("quantizer", "levels", "potentials", "codes", "temperature", "info")

    kernel: nnx.Param[Array]
    quantizer: Quantizer
    levels: Mapping[str, QuantizerParam]
    potentials: Mapping[str, QuantizerState]
    codes: QuantizerCodes | None
    temperature: Temperature
    info: QuantizerInfo

    def attach(self, quantizer: Quantizer) -> None:
        """Give the layer its quantizer, started at the present kernel."""
        params, state = init_jitted(quantizer, self.kernel[...])
        self.quantizer = quantizer
        self.levels = nnx.data({name: QuantizerParam(value) for name, value in params.items()})
        self.potentials = nnx.data({name: QuantizerState(value) for name, value in state.items()})
        self.codes = nnx.data(None)
        self.temperature = Temperature(jnp.asarray(START, jnp.float32))
        self.info = QuantizerInfo(Diagnostics(*(jnp.zeros((), jnp.float32) for _ in Diagnostics._fields)))

    def quantized(self, path: str = "kernel") -> Quantized:
        """The layer's quantizer and variables as the `Quantized` of one leaf at `path`; no codes unless frozen."""
        return Quantized(
            Plan({path: self.quantizer}, {}),
            {path: {name: v[...] for name, v in self.levels.items()}},
            {path: {name: v[...] for name, v in self.potentials.items()}},
            {} if self.codes is None else {path: self.codes[...]},
        )

    def carry(self, quantized: Quantized, path: str = "kernel") -> None:
        """Write the state and the codes, if there are any, of what `quantized` gave back."""
        for name, value in quantized.state[path].items():
            self.potentials[name].set_value(jax.lax.stop_gradient(value))
        if path not in quantized.codes:
            return
        if self.codes is None:
            self.codes = nnx.data(QuantizerCodes(quantized.codes[path]))
        else:
            self.codes.set_value(quantized.codes[path])

    def _with_kernel_in_use(self) -> Any:
        """A shallow copy that holds the weights to compute with where the Flax layer looks for its kernel."""
        quantized, params = self.quantized(), {"kernel": self.kernel[...]}
        if self.codes is not None:
            used = quantized.hard(params)
        else:
            used, quantized, diagnostics = quantized.soft(params, self.temperature[...])
            self.carry(quantized)
            self.info.set_value(diagnostics["kernel"])
        view = copy.copy(self)
        object.__setattr__(view, "kernel", nnx.Param(used["kernel"]))
        return view


class QuantDense(QuantizedKernel, nnx.Linear):
    """`nnx.Linear(in_features, out_features, ...)` with a quantized kernel.

    Args:
      quantizer: `MEC(...)` or another of `mecq_jax.quantizers`.
      in_features: as for `nnx.Linear`, and so are the next two.
      out_features: number of outputs.
      kwargs: use_bias, dtype, kernel_init, rngs and the like.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from mecq_jax import MEC, QuantDense
      >>> layer = QuantDense(8, 4, quantizer=MEC(bits=2), rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 8))).shape
      (2, 4)
    """

    def __init__(self, in_features: int, out_features: int, *, quantizer: Quantizer, **kwargs: Any) -> None:
        super().__init__(in_features, out_features, **kwargs)
        self.attach(quantizer)

    def __call__(self, inputs: Float[Array, "... a"], *args: Any, **kwargs: Any) -> Float[Array, "... b"]:
        """`nnx.Linear` on the weights that the phase computes with."""
        return nnx.Linear.__call__(self._with_kernel_in_use(), inputs, *args, **kwargs)


class QuantConv(QuantizedKernel, nnx.Conv):
    """`nnx.Conv(in_features, out_features, kernel_size, ...)` with a quantized kernel.

    Args:
      quantizer: `MEC(...)` or another of `mecq_jax.quantizers`.
      in_features: as for `nnx.Conv`, and so are the next three.
      out_features: number of outputs.
      kernel_size: along each spatial axis.
      kwargs: strides, padding, feature_group_count, kernel_dilation, use_bias, dtype, rngs and the like.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from mecq_jax import MEC, QuantConv
      >>> layer = QuantConv(1, 4, (3, 3), quantizer=MEC(bits=2), rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 8, 8, 1))).shape
      (2, 8, 8, 4)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        *,
        quantizer: Quantizer,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, out_features, kernel_size, **kwargs)
        self.attach(quantizer)

    def __call__(self, inputs: Float[Array, "... a"], *args: Any, **kwargs: Any) -> Float[Array, "... b"]:
        """`nnx.Conv` on the weights that the phase computes with."""
        return nnx.Conv.__call__(self._with_kernel_in_use(), inputs, *args, **kwargs)
