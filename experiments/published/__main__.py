"""Networks that others trained:  python -m experiments.published COMMAND ..."""

import sys

from experiments.runtime.console import dispatch

if __name__ == "__main__":
    sys.exit(dispatch("experiments.published", ("fetch", "float_run", "study")))
