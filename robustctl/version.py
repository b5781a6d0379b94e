"""The version of robustctl."""

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """The versions that a result or a run records."""
    import platform

    import torch

    return {"robustctl": __version__, "torch": str(torch.__version__), "python": platform.python_version()}
