# text8 whole at 2 bits per channel from the float weights of text8_llama_large_float.py: for an accelerator.
# python -m experiments.train --config experiments/configs/text8_llama_large_w2.py --data_dir=FOLDER_OF_TEXT8
# LSQ: the same with --method=lsq --folder runs/text8_llama_large_w2_lsq
# Not yet run on any device, hours not known; bits per character on the whole test part of 5 million characters.
import dataclasses

from experiments.configs.text8_llama_large_float import config as base

config = dataclasses.replace(
    base,
    float_run="runs/text8_llama_large_float",
    k=4,
    soft_epochs=2,
    hard_epochs=1,
    learning_rate=3e-4,
    weight_decay=0.0,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
