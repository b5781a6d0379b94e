"""Where the user's own things and pulled models live. No torch here."""

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """``$ROBUSTCTL_HOME``, else the platform's cache directory.

    ``entries``, ``architectures`` and ``attacks`` in it are the user's own; the other folders are kept by the registry.
    """
    chosen = os.environ.get("ROBUSTCTL_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("robustctl"))
