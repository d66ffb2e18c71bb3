"""Colours that most people can tell apart (after Okabe and Ito, 2008), of figures and of classes."""

BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
SKY, YELLOW = "#56B4E9", "#B8A800"
CYCLE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW)
