"""svg-forecast --ray, on this machine. `nox -s ray` runs it where Ray is installed: starting Ray takes long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_runner import wait_until
from tests.svg_runtime.live.live_helpers import write_video
from tests.svg_runtime.offline.conftest import OPTIONS, rows_of

pytest.importorskip("ray")

PROGRAM = "from svg_runtime.offline.cli import main; main()"
WITH_A_GPU = f"import ray; ray.init(num_cpus=2, num_gpus=1); {PROGRAM}"  # for Ray, which takes it for granted


def started(source: Path, out: Path, *arguments: str, program: str = PROGRAM) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, str(source), "--out", str(out), *OPTIONS, *arguments]
    alert = {**os.environ, "RAY_worker_niceness": "0"}  # by default, workers wait for everything else on the machine
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=alert)


def ended(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def workers_of(pid: int) -> list[int]:
    """Processes of Ray's actors below the process `pid`."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in table.splitlines()]
    below, found = {str(pid)}, []
    for _ in range(4):
        below |= {own for own, parent, _ in rows if parent in below}
    for own, _, arguments in rows:
        if own in below and arguments.startswith("ray::MapWorker"):
            found.append(int(own))
    return found


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(12):
        write_video(folder / f"v{number:02d}.mp4", frames=80, seed=number)
    return folder


def wait_for_a_part(run: subprocess.Popen[str], out: Path) -> None:
    wait_until(lambda: any(out.glob("part-*-b*")) or run.poll() is not None, timeout_s=300)


def test_ray_gives_the_same_rows_and_survives_the_death_of_a_worker(videos, tmp_path):
    out = tmp_path / "out"
    ended(started(videos, tmp_path / "whole"))
    ended(started(videos / "v00.mp4", out))  # Ray goes on where a run without it has ended
    run = started(videos, out, "--ray", "2")
    wait_for_a_part(run, out)
    workers = workers_of(run.pid)
    assert workers
    os.kill(workers[0], signal.SIGKILL)
    assert "11 to do" in ended(run)
    assert rows_of(out) == rows_of(tmp_path / "whole")
    assert "12 done before, 0 to do" in ended(started(videos, out, "--ray", "2"))


def test_sigterm_ends_it_with_what_is_finished(videos, tmp_path):
    run = started(videos, tmp_path / "out", "--ray", "1")
    wait_for_a_part(run, tmp_path / "out")
    run.terminate()
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 130, output
    done = rows_of(tmp_path / "out")["videos"].num_rows
    assert 0 < done < 12
    assert rows_of(tmp_path / "out")["frames"].num_rows == 80 * done


def test_workers_take_a_share_of_a_gpu(videos, tmp_path):
    ended(started(videos / "v00.mp4", tmp_path / "whole"))
    ended(started(videos / "v00.mp4", tmp_path / "out", "--ray", "1", "--ray-gpus", "0.5", program=WITH_A_GPU))
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")


def test_workers_that_fit_on_no_machine_are_refused_instead_of_waited_for(videos, tmp_path):
    run = started(videos / "v00.mp4", tmp_path / "out", "--ray", "1", "--ray-gpus", "2", program=WITH_A_GPU)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 2, output
    assert "takes 1 CPU and 2 GPUs, and no machine of Ray has them; the closest has 2 CPUs and 1 GPU" in output


def test_arguments_are_hidden_from_ray_and_need_not_be_utf8():
    """Ray's table of jobs is for all users of a cluster."""
    program = (
        "import ray, svg_runtime.offline.ray_cluster as cluster; cluster.connect_to_ray(); "
        "import json; from ray._private.state import jobs; print(json.dumps(jobs()))"
    )
    command = [sys.executable, "-c", program, "https://user:secret@host/a.mp4?sig=secret", b"v\xff.mp4"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    assert "svg-forecast --ray" in run.stdout
    assert "secret" not in run.stdout
