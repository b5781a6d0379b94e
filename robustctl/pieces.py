"""Work on a batch in pieces, in smaller ones after memory has run out."""

import math
from collections.abc import Callable
from typing import TypeVar

from robustctl.devices import out_of_memory, release_memory
from robustctl.errors import RunError

Result = TypeVar("Result")

NO_LIMIT = 2**31


class Pieces:
    """Does work on slices of a batch; after running out of memory on half as many rows, from there on.

    The rows of the work must not depend on each other: then the results are the same, however often it was halved.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, work: Callable[[slice], Result], n: int) -> list[Result]:
        """Results of ``work`` on consecutive slices that cover ``range(n)``.

        Raises:
            RunError: out of memory with a single row. Other errors of ``work`` go on.
        """
        results: list[Result] = []
        start = 0
        while start < n:
            stop = min(start + self.size, n)
            try:
                results.append(work(slice(start, stop)))
                start = stop
                continue
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            # Only here, outside the handler, is the error gone, and with its traceback all that the failed pass held.
            self._halve(stop - start)
        return results

    def _halve(self, failed: int) -> None:
        if failed == 1:
            raise RunError("out of memory with a single image; what was done is kept")
        self.size = math.ceil(failed / 2)
        release_memory()
