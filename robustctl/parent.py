"""Ends a worker of ``torchrun`` when torchrun itself is gone: nobody else would. No torch here."""

import os
import signal
import threading
import time

from robustctl import terminal

LOOK_SECONDS = 1.0
GRACE_SECONDS = 10.0
"""Time to save what there is; a worker that waits for one that has ended already would not come back at all."""


def watch() -> None:
    """Look at the parent process every second from now on, if torchrun is the parent.

    Once it is gone, this process gets SIGTERM, as torchrun would have sent it, and is ended after a grace.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_look, args=(os.getppid(),), daemon=True, name="parent").start()


def _look(parent: int) -> None:
    while os.getppid() == parent != 1:  # an orphan's parent is another process
        time.sleep(LOOK_SECONDS)
    terminal.tell("robustctl: torchrun has ended; so does this process")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(130)
