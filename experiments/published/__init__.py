"""Networks that others trained, read by name and quantized with little or no training."""
