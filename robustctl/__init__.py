"""robustctl: adversarial robustness against several threat models at once."""

__version__ = "0.1.0"
