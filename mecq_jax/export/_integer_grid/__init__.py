"""Networks on an integer grid: the same output, bit for bit, in every runtime."""
