"""Training on two hosts, which are two network namespaces of this machine, joined by a cable that can be cut."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from svg_train.checkpoint import CheckpointError, load_checkpoint
from tests.command_runner import start, wait_until
from tests.families import TINY_MODELS
from tests.svg_train.run_processes import ON_CPU, TRAIN, log_every_step, losses, run_processes, write_recipe

ADDRESSES = ("10.77.41.1", "10.77.41.2")
INTERFACE = "cable"
PORT = "29400"
_CLONE_NEWNET = 0x40000000


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two network namespaces that reach each other, and nothing else."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root, and the program ip of iproute2")
    names = [f"svg-{os.getpid()}-{number}" for number in range(2)]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("-n", names[0], "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns", names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", INTERFACE)
            ip("-n", name, "link", "set", INTERFACE, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def torchrun(host: str, rank: int, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command of docs/many-hosts.md."""
    programs = Path(sys.executable).parent
    torchrun = [programs / "torchrun", "--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1"]
    rendezvous = ["--master-addr", ADDRESSES[0], "--master-port", PORT, "--no-python", programs / "svg-train"]
    return subprocess.Popen(
        ["ip", "netns", "exec", host, *torchrun, *rendezvous, *arguments],
        cwd=folder,
        env={**os.environ, "GLOO_SOCKET_IFNAME": INTERFACE, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def enter(host: str) -> None:
    """Move this process into the namespace of `host`."""
    with open(f"/run/netns/{host}") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {host}")
    log_every_step()


def saved_step(folder: Path) -> int:
    try:
        return load_checkpoint(folder / "last.pt").step
    except CheckpointError:
        return 0


@pytest.mark.slow
def test_two_hosts_end_when_the_cable_is_cut_and_go_on_when_it_is_back(hosts, tmp_path):
    train = {**TRAIN, "steps": 40, "save_every": 1, "eval_every": 40}
    recipe = write_recipe(tmp_path / "tiny.toml", model={**TINY_MODELS["ensemble"], "image_size": 40}, train=train)
    folders = [tmp_path / f"host-{number}" for number in range(2)]  # each has a disk of its own
    for folder in folders:
        folder.mkdir()

    # Not shorter: on a busy machine one host is up seconds after the other.
    runs = [
        torchrun(host, rank, folder, "--config", str(recipe), *ON_CPU, "--lost-after", "15s")
        for rank, (host, folder) in enumerate(zip(hosts, folders, strict=True))
    ]
    try:
        wait_until(lambda: saved_step(folders[0] / "run") >= 2 or any(run.poll() is not None for run in runs), 180)
        ip("-n", hosts[0], "link", "set", INTERFACE, "down")
        outputs = [run.communicate(timeout=300)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    for run, output in zip(runs, outputs, strict=True):
        assert run.returncode == 1, output
        assert "error: lost another process of this run: " in output
        assert "when all hosts are back, continue from the last save with: --out run --resume, on each" in output
    assert not (folders[1] / "run").exists()
    step = saved_step(folders[0] / "run")
    assert 2 <= step < 40

    ip("-n", hosts[0], "link", "set", INTERFACE, "up")
    again = []
    for rank, (host, folder) in enumerate(zip(hosts, folders, strict=True)):
        environment = {
            "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": str(rank),
            "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": PORT, "TORCHELASTIC_RUN_ID": "test",
            "GLOO_SOCKET_IFNAME": INTERFACE,
        }  # fmt: skip
        again.append(start(["svg-train", "--resume", *ON_CPU], folder, before=partial(enter, host), environment=environment))
    for run in again:
        assert run.wait() == 0, run.output
    run_processes(1, ["--config", str(recipe), "--out", "whole"], tmp_path)
    lines = losses(folders[0] / "run")
    assert list(lines)[-1] == 40
    whole = losses(tmp_path / "whole")
    for number, line in lines.items():
        assert line["loss"] == pytest.approx(whole[number]["loss"], rel=1e-3), number
    assert set(range(step + 1, 41)) <= set(lines)
