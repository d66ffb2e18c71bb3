"""The types that quantizers share: a name for each kind of array."""

from jaxtyping import Array, Float, UInt8

#: Weights laid out by `mecq_jax.granularity.to_groups`: g groups of n weights each, any floating type.
Groups = Float[Array, "g n"]
#: The level that each weight takes, as its number from 0 to k - 1.
Codes = UInt8[Array, "g n"]
#: The k levels of each group, in the unit of the weights.
Levels = Float[Array, "g k"]
#: epsilon / var(w) of each group, above 0; a pure number.
Temperature = Float[Array, ""] | float
#: What the optimizer trains, by name; the first axis of every array is the groups.
Params = dict[str, Array]
#: What is carried from step to step without a gradient, by name; the first axis of every array is the groups.
State = dict[str, Array]
