"""A web page in which one draws a digit and a 2-bit network reads it."""
