"""Intermediate-q robustness: evaluate it, sum it up, read and write its result."""
