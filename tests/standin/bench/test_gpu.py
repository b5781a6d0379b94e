"""``bench gpu`` on a device that computes what the CPU computes."""

import torch

from robustctl.bench import gpu, gpu_setting


def test_every_part_runs_and_agrees(device: torch.device) -> None:
    found = list(gpu.run(device, 600, gpu_setting.TINY))
    assert [one.part for one in found if one.ok is False] == []
    assert [one.part for one in found] == gpu.part_names(device, gpu_setting.TINY)
    assert [one.numbers["error"] for one in found if "error" in one.numbers] == []
    verdicts = [one.numbers for one in found if one.part.startswith("verdicts")]
    assert all(one["broken_by_cpu"] == one["broken_by_device"] for one in verdicts)
    assert all(one.numbers["memory_peak"] > 0 for one in found if one.part.startswith("step"))
