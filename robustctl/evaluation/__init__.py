"""Evaluation: attacks propose, this room judges, stores verdicts and counts."""
