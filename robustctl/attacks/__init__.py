"""Attacks: one a file, ``def attack(oracle, x, y, threat, *, steps, ..., generator) -> x_adv``. They only propose."""
