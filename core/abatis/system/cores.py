"""How many cores this process may use. Loads without torch."""

from __future__ import annotations

import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of time in a period, or max


def count_cores() -> int:
    """The cores by the process's affinity and by the quota of its container; at least one."""
    known = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = (os.cpu_count() or 1) if known is None else len(known(0))
    try:
        time, period = QUOTA.read_text(encoding="ascii").split()
        return max(1, min(cores, int(time) // int(period)))
    except (OSError, ValueError):  # there is no quota
        return cores
