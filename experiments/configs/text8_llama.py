"""text8, its first 10 million characters: a float transformer of 4 blocks and width 128 (0.8 M weights), one epoch;
from its weights 2, 3 or 4 bits per tensor in three epochs of 700,000 characters each.

python -m experiments.train --config experiments/configs/text8_llama.py:method=float --data_dir=FOLDER_OF_TEXT8
python -m experiments.train --config experiments/configs/text8_llama.py:bits=2 --data_dir=FOLDER_OF_TEXT8
(or bits=3, or 4; with LSQ: bits=2,method=lsq)

Minutes on one CPU core: float about 18 (0.2 core seconds a step), few bits about 5 (0.26).
Expected bits per character on the first 200,000 characters of the test part (3 seeds):
    float   2.028 +- 0.004; its file is the network rounded to 2 bits without training
    3 bits  2.056 +- 0.005 (with --prior=lloyd_max 2.045 +- 0.004; LSQ 2.052 +- 0.005)
    2 bits  2.081 +- 0.003 (with --prior=lloyd_max 2.074 +- 0.006; LSQ 2.097 +- 0.005)
    float trained on as long, bits=2,method=float, 2.024 +- 0.005; 4 bits not yet run
"""

from experiments.config import Config, Variants

config = Variants(
    Config(
        task="language",
        dataset="text8",
        train_size=10_000_000,
        context=128,
        model="llama_small",
        width=128,
        batch=16,
        optimizer="adam",
        clip=1.0,
        warmup=0.05,
        float_epochs=1,
        float_learning_rate=3e-3,
    ),
    float_run="runs/text8_llama_float",
    epoch_size=5_468,
    soft_epochs=2,
    hard_epochs=1,
    learning_rate=1e-3,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
