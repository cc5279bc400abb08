"""Memory of this process, as the system counts it."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_rss_mib() -> float | None:
    """Largest resident memory of this process so far in MiB; None where the system does not tell."""
    status = Path("/proc/self/status")  # getrusage would count the shell from which this process was forked
    if status.exists():
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        return round(int(line.split()[1]) / 1024, 1) if line else None
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
