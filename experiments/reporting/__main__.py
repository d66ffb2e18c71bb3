"""Rows, tables and figures of results:  python -m experiments.reporting COMMAND ..."""

import sys

from experiments.runtime.console import dispatch

if __name__ == "__main__":
    sys.exit(dispatch("experiments.reporting", ("collect", "gallery", "pictures", "tables", "migrate")))
