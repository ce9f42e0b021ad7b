"""Reads the operator's files within bounds, with the line of every value and the place of every problem."""
