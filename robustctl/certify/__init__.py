"""Certified robustness: lower bounds that hold for every point of a ball, beside the upper bounds of attacks."""
