"""A published language model at 4, 3 and 2 bits."""
