"""Studies:  python -m experiments.studies NAME [--field=value ...] [--out DIR]"""

import sys

from experiments.runtime.console import dispatch
from experiments.studies.common import main

if __name__ == "__main__":
    sys.exit(dispatch("experiments.studies", ("iterations", "gradients", "passes", "relaxation", "grid"), main))
