"""Data sets: in memory or streamed, augmented, decoded."""
