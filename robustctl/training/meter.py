"""Means of measurements that stay on the device until they are asked for."""

from typing import Any

from torch import Tensor


class Meter:
    """Adds up values by name; reading them is the only time that the host waits for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, value: Tensor | float) -> None:
        """Add one value; a tensor must be a scalar."""
        detached = value.detach().double() if isinstance(value, Tensor) else value
        self._sums[name] = self._sums[name] + detached if name in self._sums else detached
        self._counts[name] = self._counts.get(name, 0) + 1

    def count(self, name: str) -> int:
        """How many values were added under this name."""
        return self._counts.get(name, 0)

    def means(self) -> dict[str, float]:
        """Mean of each name's values since the last ``clear``."""
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}

    def kept(self) -> tuple[dict[str, Tensor | float], dict[str, int]]:
        """The sums and counts of now, which ``go_back`` takes; nothing is read from the device."""
        return dict(self._sums), dict(self._counts)

    def go_back(self, kept: tuple[dict[str, Tensor | float], dict[str, int]]) -> None:
        """Forget what was added since ``kept``."""
        self._sums, self._counts = dict(kept[0]), dict(kept[1])

    def clear(self) -> None:
        self._sums.clear()
        self._counts.clear()

    def state(self) -> dict[str, Any]:
        return {"sums": {name: float(total) for name, total in self._sums.items()}, "counts": dict(self._counts)}

    def load_state(self, state: dict[str, Any]) -> None:
        self._sums = dict(state["sums"])
        self._counts = dict(state["counts"])
