"""Limits of control groups, in folders as Linux, Docker, Kubernetes and systemd make them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from svg_runtime.machine import hardware
from svg_runtime.machine.cpu_quota import cpu_quota


def process(folder: Path, groups: str, mounts: list[tuple[str, str, str]]) -> Path:
    """What /proc/self has: groups of the process, and (kind, group that is mounted, its options), each at folder/0, 1 ..."""
    lines = [
        f"3{number} 22 0:2{number} {root} {folder}/{number} rw,nosuid shared:9 - {kind} {kind} {options}"
        for number, (kind, root, options) in enumerate(mounts)
    ]
    (folder / "cgroup").write_text(groups)
    (folder / "mountinfo").write_text("\n".join([*lines, "36 22 0:35 / /tmp rw - tmpfs tmpfs rw,size=1k\n"]))
    return folder


def limit(folder: Path, text: str) -> None:
    """Version 2."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(f"{text}\n")


def limit_v1(folder: Path, quota: int, period: int = 100_000) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


V2 = ("cgroup2", "/", "rw,nsdelegate")


@pytest.mark.parametrize(("text", "cores"), [("150000 100000", 1.5), ("max 100000", None), ("20000 10000", 2.0), ("", None)])
def test_a_container_is_held_to_its_limit(tmp_path, text, cores):
    """docker run --cpus, whose own group is the root that it sees."""
    limit(tmp_path / "0", text)
    assert cpu_quota(process(tmp_path, "0::/\n", [V2])) == cores


def test_the_narrowest_of_the_groups_around_it_counts(tmp_path):
    """CPUQuota= of a slice around a service."""
    limit(tmp_path / "0/system.slice", "300000 100000")
    limit(tmp_path / "0/system.slice/svg-live.service", "max 100000")
    assert cpu_quota(process(tmp_path, "0::/system.slice/svg-live.service\n", [V2])) == 3.0
    limit(tmp_path / "0/system.slice/svg-live.service", "50000 100000")
    assert cpu_quota(process(tmp_path, "0::/system.slice/svg-live.service\n", [V2])) == 0.5


def test_version_1_beside_version_2_and_without_a_namespace(tmp_path):
    """A container of Docker with version 1: the group has its name outside, and its mount begins there."""
    groups = "5:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n0::/docker/ab\n"
    limit_v1(tmp_path / "1", 250_000)
    (tmp_path / "1/cpu.shares").write_text("1024\n")
    mounts = [("cgroup2", "/docker/ab", "rw"), ("cgroup", "/docker/ab", "rw,cpu,cpuacct"), ("cgroup", "/", "rw,memory")]
    assert cpu_quota(process(tmp_path, groups, mounts)) == 2.5
    limit_v1(tmp_path / "1", -1)
    assert cpu_quota(tmp_path) is None


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert cpu_quota(tmp_path / "none") is None
    assert cpu_quota(process(tmp_path, "", [])) is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 4), (0.3, 1), (1.5, 2), (2.0, 2), (9.0, 4)])
def test_threads_are_no_more_than_the_cores_and_the_limit(quota, cores, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(hardware, "cpu_quota", lambda: quota)
    assert hardware.usable_cores() == cores
