# text8, its first 10 million characters: a float transformer of 4 blocks and width 128 (0.8 M weights), one epoch.
# python -m experiments.train --config experiments/configs/text8_llama_float.py --data_dir=FOLDER_OF_TEXT8
# About 18 minutes on one CPU core (0.2 core seconds a step). Its file is the network rounded to 2 bits
# without training; text8_llama_w3.py and text8_llama_w2.py train on from its float weights.
# Expected: 2.028 +- 0.004 (3 seeds). Bits per character on the first 200,000 characters of the test part.
from experiments.config import Config

config = Config(
    task="language",
    dataset="text8",
    train_size=10_000_000,
    context=128,
    model="llama_small",
    width=128,
    k=4,
    batch=16,
    optimizer="adam",
    clip=1.0,
    warmup=0.05,
    float_epochs=1,
    float_learning_rate=3e-3,
    soft_epochs=0,
    hard_epochs=0,
)
