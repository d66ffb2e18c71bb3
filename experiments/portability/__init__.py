"""Packed files in other runtimes."""
