"""Networks as NNX modules, none of which knows a quantizer."""
