"""One run: phases, steps, checkpoints."""
