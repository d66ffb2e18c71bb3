"""Packed files elsewhere:  python -m experiments.portability COMMAND ..."""

import sys

from experiments.runtime.console import dispatch

if __name__ == "__main__":
    sys.exit(dispatch("experiments.portability", ("check",)))
