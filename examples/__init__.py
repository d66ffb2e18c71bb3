"""Programs to copy from: each folder is one, python -m examples.NAME."""
