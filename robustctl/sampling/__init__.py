"""Samplers and estimators of intermediate-q robustness (Rice, thesis 2023, chapter 3)."""
