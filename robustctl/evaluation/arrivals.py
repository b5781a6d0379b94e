"""Values that a device computes for the host, each with the work that waits for it."""

from collections import deque
from collections.abc import Callable

from torch import Tensor

from robustctl.devices import Arriving

Work = Callable[[Tensor], None]


class Arrivals:
    """A queue in the order of sending."""

    def __init__(self) -> None:
        self._queue: deque[tuple[int, Arriving, Work]] = deque()

    def send(self, step: int, values: Tensor, work: Work) -> None:
        """Let ``work`` have these values, which are sent at a step, when ``take`` asks for it; steps do not fall."""
        self._queue.append((step, Arriving(values), work))

    def take(self, step: int) -> None:
        """Do the work with everything that was sent up to this step; the host waits until it is here.

        Work may send further values. It is done at once if it is sent at a step up to this one.
        """
        while self._queue and self._queue[0][0] <= step:
            _, values, work = self._queue.popleft()
            work(values.tensor())
