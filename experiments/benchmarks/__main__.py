"""Benchmarks:  python -m experiments.benchmarks NAME [--tiny --out DIR]"""

import sys

from experiments.reporting.measured import main
from experiments.runtime.console import dispatch

if __name__ == "__main__":
    sys.exit(dispatch("experiments.benchmarks", ("solver", "step", "input", "exported", "packed_matmul"), main))
