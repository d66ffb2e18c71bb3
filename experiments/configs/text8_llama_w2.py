# text8 at 2 bits per tensor from the float weights of text8_llama_float.py: three epochs of 700,000 characters each.
# python -m experiments.train --config experiments/configs/text8_llama_w2.py --data_dir=FOLDER_OF_TEXT8
# LSQ: the same with --method=lsq --folder runs/text8_llama_w2_lsq
# About 5 minutes on one CPU core (0.26 core seconds a step).
# Expected: 2.081 +- 0.003 (3 seeds; with --prior=lloyd_max 2.074 +- 0.006; LSQ 2.097 +- 0.005; float trained on
# as long 2.024 +- 0.005).
# Bits per character on the first 200,000 characters of the test part.
import dataclasses

from experiments.configs.text8_llama_float import config as base

config = dataclasses.replace(
    base,
    float_run="runs/text8_llama_float",
    k=4,
    epoch_size=5_468,
    soft_epochs=2,
    hard_epochs=1,
    learning_rate=1e-3,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
