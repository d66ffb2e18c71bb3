"""text8 whole (90 million characters), a float transformer of 12 blocks of width 512 (38 M weights), and from it 2, 3
or 4 bits per channel: for an accelerator.

python -m experiments.train --config experiments/configs/text8_llama_large.py:method=float --data_dir=FOLDER_OF_TEXT8
python -m experiments.train --config experiments/configs/text8_llama_large.py:bits=2 --data_dir=FOLDER_OF_TEXT8
(or bits=3, or 4; with LSQ: bits=2,method=lsq)

Not yet run on any device, hours not known; bits per character on the whole test part of 5 million characters.
"""

from experiments.config import Config, Variants

config = Variants(
    Config(
        task="language",
        dataset="text8",
        context=512,
        model="llama_base",
        width=512,
        compute="bfloat16",
        groups="channel",
        batch=64,
        optimizer="adam",
        clip=1.0,
        warmup=0.05,
        float_epochs=8,
        float_learning_rate=1e-3,
        weight_decay=0.1,
    ),
    float_run="runs/text8_llama_large_float",
    soft_epochs=2,
    hard_epochs=1,
    learning_rate=3e-4,
    weight_decay=0.0,
    temperature_end=1e-3,
    entropy_weight=0.0,
)
