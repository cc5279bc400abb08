"""How much of the processor control groups grant this process: `docker run --cpus`, limits of Kubernetes, CPUQuota of systemd.

The scheduler's affinity, which counts cores, does not show it. Threads beyond it do not compute faster: all of them are stopped
together until the next period.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_SELF = Path("/proc/self")


def cpu_quota(process: Path = _SELF) -> float | None:
    """Cores' worth of time that this process may use; None without a limit, or where the system reports none.

    Args:
        process: its folder in Linux's /proc.
    """
    try:
        groups = (process / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
        mounts = (process / "mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system
        return None
    paths = _paths(groups)
    granted = [
        quota
        for is_v2, root, mount_point in _mounts(mounts)
        if is_v2 in paths
        for folder in _levels(PurePosixPath(paths[is_v2]), root, mount_point)
        if (quota := _quota(folder, is_v2)) is not None
    ]
    return min(granted, default=None)


def _paths(groups: list[str]) -> dict[bool, str]:
    """The group of the process that limits the processor, in version 2 (True) and 1 of control groups."""
    found = {}
    for line in groups:
        number, controllers, path = line.split(":", 2)
        if number == "0" or "cpu" in controllers.split(","):
            found[number == "0"] = path
    return found


def _mounts(lines: list[str]) -> Iterator[tuple[bool, PurePosixPath, Path]]:
    """Whether it is of version 2, the group that is mounted, and where, as proc_pid_mountinfo(5) describes."""
    for line in lines:
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        fields = before.split()
        if kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split()[-1].split(",")):
            yield kind == "cgroup2", PurePosixPath(fields[3]), Path(fields[4])


def _levels(group: PurePosixPath, root: PurePosixPath, mount_point: Path) -> Iterator[Path]:
    """The folders of a group and of those around it, as far as they are mounted: each limits all within it."""
    inner = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()  # else a container sees its own as root
    for level in (inner, *inner.parents):
        yield mount_point / level


def _quota(folder: Path, is_v2: bool) -> float | None:
    """Cores' worth of time that one group may use; None without a limit."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        if is_v2:
            quota, period = map(float, (folder / "cpu.max").read_text().split())  # "max 100000" is no limit, and no number
        else:
            quota, period = (float((folder / f"cpu.cfs_{each}_us").read_text()) for each in ("quota", "period"))
        return quota / period if quota > 0 else None  # -1 is no limit
    return None
