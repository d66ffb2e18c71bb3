# text8 whole (90 million characters), a float transformer of 12 blocks of width 512 (38 M weights): for an accelerator.
# python -m experiments.train --config experiments/configs/text8_llama_large_float.py --data_dir=FOLDER_OF_TEXT8
# Not yet run on any device, hours not known; bits per character on the whole test part of 5 million characters.
from experiments.config import Config

config = Config(
    task="language",
    dataset="text8",
    context=512,
    model="llama_base",
    width=512,
    compute="bfloat16",
    k=4,
    groups="channel",
    batch=64,
    optimizer="adam",
    clip=1.0,
    warmup=0.05,
    float_epochs=8,
    float_learning_rate=1e-3,
    weight_decay=0.1,
    soft_epochs=0,
    hard_epochs=0,
)
