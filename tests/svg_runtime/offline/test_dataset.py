"""The folder of results: other files in it, and file systems without locks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from svg_common.errors import SvgError
from svg_runtime.offline.dataset import is_own_name, open_dataset
from svg_runtime.offline.shard import Shard


@pytest.mark.parametrize("output", ["out/part-1.json", "out/partial/summary.json", "out/part-of-it/summary.json"])
def test_a_file_beside_the_parts_is_not_taken_for_one(svg_forecast, videos, output):
    Path(output).parent.mkdir(parents=True)
    for counted in ("0 done before, 1 to do", "1 done before, 0 to do"):
        code, message, _ = svg_forecast(videos / "yard0.mp4", "--json", output)
        assert (code, counted in message) == (0, True), message
    assert Path(output).exists()


def test_a_file_with_the_name_of_a_part_is_not_taken_for_one(tmp_path):
    (tmp_path / "part-1-of-1-000001").touch()
    with open_dataset(tmp_path, {}, Shard()) as dataset:
        assert dataset.done() == {}


NAMES = [
    "part-1-of-1-000007", "part-2-of-3-000001/a.json", ".part-1-of-1-downloads/a.json", ".start.lock", ".shard-1-of-1.lock",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_summary_takes_no_name_of_results_to_come(svg_forecast, videos, name):
    code, message, _ = svg_forecast(videos / "yard0.mp4", "--json", f"out/{name}")
    assert (code, f"--json 'out/{name}' has a name that results in 'out' may get" in message) == (2, True), message
    assert "choose another file, such as out/summary.json" in message
    assert not Path("out").exists()


def test_names_of_results_count_in_their_folder_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("out")
    assert is_own_name(Path("out"), tmp_path / "link" / "part-1-of-1-000001")
    for other in ("part-1-of-1-000001", "out", "out/deep/part-1-of-1-000001", "out/part-1-of-1", "out/settings.json.bak"):
        assert not is_own_name(Path("out"), Path(other))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused_with_advice(tmp_path, monkeypatch, number):
    """filelock would go on with a file whose existence is the lock, and which a killed process leaves behind."""

    def refuse(*given):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    message = rf"cannot write '{tmp_path}': {os.strerror(number)}\n.* switch file locking on for this file system, and run"
    with pytest.raises(SvgError, match=message), open_dataset(tmp_path, {}, Shard()):
        pass
