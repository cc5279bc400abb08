"""Memory of this process, as the system reports it."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_rss_mib() -> float | None:
    """Largest resident memory of this process so far in MiB; None if the system does not report it."""
    status = Path("/proc/self/status")  # getrusage would include the process that this one was forked from
    if status.exists():
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        return round(int(line.split()[1]) / 1024, 1) if line else None
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
