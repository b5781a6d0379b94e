"""The version of robustctl."""

__version__ = "0.1.0"
