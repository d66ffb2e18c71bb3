"""All methods under one recipe: `team` trains runs together, `protocol` tunes and repeats them and keeps the rows."""
