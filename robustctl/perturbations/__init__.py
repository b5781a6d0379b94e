"""Threats beyond the three norms: each kind has a budget, parameters that the referee checks, and its attacks."""
