"""Writes the metrics of a training run for TensorBoard."""

from pathlib import Path
from typing import Any

from robustctl.training.metrics_log import Listener


def tensorboard(directory: Path) -> Listener:
    """Return a listener that writes the numbers of each line of metrics under the line's kind."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(directory)

    def write(line: dict[str, Any]) -> None:
        for name, value in line.items():
            if isinstance(value, float) and "step" in line:
                writer.add_scalar(f"{line['kind']}/{name}", value, line["step"])
        writer.flush()

    return write
