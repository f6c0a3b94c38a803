"""How much memory could be taken right now, by device. What it is for is not known here."""

import os
from pathlib import Path

import torch


def available(device: torch.device) -> int:
    """Bytes that are free on the device: those of the machine, or what its container may still take."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_of_machine(), _of_container())


def _of_machine() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    # Where nothing says what is free, half of what there is.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _of_container() -> int:
    folder = Path("/sys/fs/cgroup")
    limit, used = folder / "memory.max", folder / "memory.current"
    if not limit.exists() or not used.exists() or (bound := limit.read_text().strip()) == "max":
        return 2**62
    return max(0, int(bound) - int(used.read_text()))
