"""Studies: questions about the method, each answered by one command that leaves a table, the numbers, a figure."""
