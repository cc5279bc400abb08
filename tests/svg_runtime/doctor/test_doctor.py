"""`svg-doctor`: checks that fail in every way, what each section says, and the whole command."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import requires
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from packaging.requirements import Requirement
from typer.main import get_command

from svg_common.errors import ExitCode
from svg_common.progress import ProgressDisplay
from svg_runtime.bundle.reader import EMBEDDED_MODEL
from svg_runtime.doctor import check as checks
from svg_runtime.doctor import cli
from svg_runtime.doctor.check import Check, run_here
from svg_runtime.doctor.finding import Finding
from svg_runtime.doctor.privacy import anonymous, private_names
from svg_runtime.doctor.report import BACKENDS, INSTALLED, can_run, text_lines, verdict
from svg_runtime.doctor.sections import backend, cameras, codecs, display, installed, machine, models, opencv, storage
from svg_runtime.machine.v4l2 import Camera
from tests.command_runner import HANG_S, is_running, wait_until


def states(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


# ---- A check in a process of its own ----


def run_program(monkeypatch, program: str, limit_s: float = 30.0) -> Finding:
    monkeypatch.setattr(checks, "RUN_CHECK", program)
    [finding] = Check("Title", "module", ("thing",), limit_s=limit_s, advice="do this").run()
    assert (finding.name, finding.state, finding.advice) == ("thing", "problem", "do this")
    return finding


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.abort()", "it crashed with SIGABRT"),
        ("raise ValueError('the driver is odd')", "ValueError: the driver is odd"),
        ("print('no answer')", "it ended with exit code 0 and said nothing"),
        ("print('[1]')", "it ended with exit code 0 and said nothing"),
        ("import sys; print('a\\nb\\nc\\nd', file=sys.stderr); sys.exit(3)", "b; c; d"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_check_that_fails_is_a_finding(program, reason, monkeypatch):
    assert run_program(monkeypatch, program).detail == reason


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_a_check_that_hangs_is_ended_with_what_it_started(monkeypatch, tmp_path):
    """A program that left its group keeps its outputs open, which must not be waited for."""
    note = tmp_path / "pids"
    program = f"""
import subprocess, time
children = [subprocess.Popen(["sleep", "100"], start_new_session=apart) for apart in (False, True)]
open({str(note)!r}, "w").write(" ".join(str(child.pid) for child in children))
time.sleep(100)
"""
    assert run_program(monkeypatch, program, limit_s=3.0).detail == "no answer within 3 s"
    child, apart = map(int, note.read_text().split())
    assert is_running(apart)
    os.kill(apart, signal.SIGKILL)
    wait_until(lambda: not is_running(child))


def test_a_check_that_cannot_start_says_nothing_of_what_it_was_to_look_at(monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    monkeypatch.setattr(cli, "all_checks", lambda: [Check(INSTALLED, "opencv", advice="pip install", label="import cv2")])
    with pytest.raises(typer.Exit) as end:
        cli.doctor(json=None)
    assert end.value.exit_code == ExitCode.ERROR
    text = " ".join(capsys.readouterr().out.split())
    assert "It is not known whether svg-live can run here: import cv2: the check cannot be started: " in text
    assert "pip install" not in text


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files in memory")
def test_a_full_disk_stops_no_check(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # where no temporary file can be made
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path))
    assert states(Check("Storage", "storage").run())["cache folder"] == "ok"
    assert states(backend.check("cpu")) == {"cpu": "ok"}


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_an_interrupt_ends_the_checks(monkeypatch, tmp_path):
    begun, start_process, started = tmp_path / "begun", subprocess.Popen, []

    def start(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(start_process(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(checks, "RUN_CHECK", f"import time; open({str(begun)!r}, 'w'); time.sleep(40)")
    monkeypatch.setattr(checks.subprocess, "Popen", start)

    class Interrupted(ProgressDisplay):
        def progress(self, *arguments: object) -> None:
            wait_until(begun.exists)
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "ProgressDisplay", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        cli._examine([Check("A", "module"), Check("B", "module"), Check("C", "module")])
    assert {process.returncode for process in started} == {-signal.SIGKILL}


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_an_interrupt_ends_a_check_that_is_just_starting(monkeypatch):
    interrupted, start_process, started = threading.Event(), subprocess.Popen, []

    def start_late(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        assert interrupted.wait(HANG_S)
        time.sleep(0.3)
        started.append(start_process(*arguments, **options))
        return started[-1]

    class Interrupted(ProgressDisplay):
        def progress(self, *arguments: object) -> None:
            interrupted.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(checks, "RUN_CHECK", "import time; time.sleep(40)")
    monkeypatch.setattr(checks.subprocess, "Popen", start_late)
    monkeypatch.setattr(cli, "ProgressDisplay", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        cli._examine([Check("A", "module")])
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_a_check_answers_from_another_process(monkeypatch, tmp_path):
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))
    findings = Check("Storage", "storage").run()
    assert states(findings)["cache folder"] == "ok"
    assert findings == [*run_here("storage", []), *findings[3:]]


# ---- Sections ----


def test_installed_lists_versions():
    found = {finding.name: finding.detail for finding in installed.check()}
    assert found["Python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert {"svg-edge", "numpy", "av", "onnxruntime"} <= set(found)


def test_installed_finds_packages_however_they_are_written(monkeypatch):
    named = [SimpleNamespace(metadata={"Name": name}, version="1.2") for name in ("huggingface_hub", "Paho.MQTT", "typer")]
    monkeypatch.setattr(installed, "distributions", lambda: named)
    found = {finding.name: finding.detail for finding in installed.check()}
    assert (found["huggingface-hub"], found["paho-mqtt"], found["typer"]) == ("1.2", "1.2", "1.2")


def test_an_extra_that_is_missing_is_said_with_what_needs_it_and_the_line_to_run(monkeypatch):
    there = [SimpleNamespace(metadata={"Name": name}, version="1.2") for name in ("paho-mqtt", "pyarrow", "filelock")]
    monkeypatch.setattr(installed, "distributions", lambda: there)
    found = {finding.name: finding for finding in installed.check() if finding.state == "missing"}
    assert list(found) == ["svg-edge[serve]", "svg-edge[hub]", "svg-edge[forecast]"]
    assert found["svg-edge[forecast]"].detail == "only for svg-forecast; lacks fsspec"
    assert found["svg-edge[serve]"].advice == "pip install 'svg-edge[serve]'"


def test_the_extras_are_those_of_the_package():
    needed = [Requirement(line) for line in requires("svg-edge") or ()]

    def with_extra(extra: str) -> set[str]:
        return {each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})}

    for extra, (_, packages) in installed._EXTRAS.items():
        assert with_extra(extra) - with_extra("") == set(packages)


def test_packages_that_overwrite_each_other_are_a_problem():
    [conflict] = installed._conflict("OpenCV", ["opencv-python", "opencv-python-headless"], "opencv-python")
    assert conflict.state == "problem"
    assert conflict.advice == "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python"
    assert installed._conflict("OpenCV", ["opencv-python"], "opencv-python") == []


def test_the_onnxruntime_for_the_gpu_comes_back_in_the_release_that_its_driver_takes(monkeypatch):
    releases = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.26.0"}
    there = [SimpleNamespace(metadata={"Name": name}, version=release) for name, release in releases.items()]
    monkeypatch.setattr(installed, "distributions", lambda: there)
    [conflict] = [finding for finding in installed.check() if finding.state == "problem"]
    assert conflict.advice == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu==1.26.0"


def test_the_build_of_opencv_is_read():
    assert "OpenCV V4L2" in states(opencv.check())
    lines = ["  GUI:     NONE", "", "  Video I/O:", "    GStreamer:     YES (1.20.3)", "    v4l/v4l2:       NO", ""]
    text = "\n".join(lines)
    found = opencv.build_findings(text)
    assert states(found) == {"OpenCV window": "missing", "OpenCV GStreamer": "ok", "OpenCV V4L2": "missing"}
    assert found[1].detail == "YES (1.20.3)"
    assert "opencv-python-headless" in found[0].advice
    [gstreamer] = [one for one in opencv.build_findings(text.replace("YES (1.20.3)", "NO")) if one.name == "OpenCV GStreamer"]
    assert "venv --system-site-packages" in gstreamer.advice  # another one does not see the OpenCV of the system


def test_the_machine_is_described(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = {finding.name: finding.detail for finding in machine.check()}
    assert "usable cores" in found["CPU"]
    assert found["OMP_NUM_THREADS"] == "1"


def test_an_nvidia_gpu_is_found_or_its_absence_explained(tmp_path, monkeypatch):
    assert states(machine.nvidia_findings(["NVIDIA H100, 550, 80000 MiB"], tmp_path)) == {"NVIDIA GPU 0": "ok"}
    assert machine.nvidia_findings([], tmp_path)[0].state == "missing"
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    assert "nvidia-smi finds no GPU" in machine.nvidia_findings([], tmp_path)[0].detail
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    [closed] = machine.nvidia_findings([], tmp_path)
    assert closed.detail == "no permission for /dev/nvidia0"
    assert "usermod" in closed.advice


def test_cameras_are_listed_with_what_to_do():
    assert states(cameras.camera_findings([])) == {"cameras": "missing"}
    found = [Camera(2, "/dev/video2", "A webcam"), Camera(10, "/dev/video10", "Another", (), "no permission", "do this")]
    assert cameras.camera_findings(found) == [
        Finding("video2", "ok", "A webcam; this user may open it"),
        Finding("video10", "problem", "Another: no permission", "do this"),
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="V4L2 is Linux's")
def test_the_cameras_are_those_that_svg_live_lists(monkeypatch):
    monkeypatch.setattr(cameras, "v4l2_cameras", lambda: [Camera(3, "/dev/video3", "A webcam")])
    assert states(cameras.check()) == {"video3": "ok"}


def test_h264_is_written_and_read(monkeypatch):
    assert codecs.round_trip() < codecs._TOLERANCE
    assert states(codecs.check()) == dict.fromkeys(["H.264", "H.265", "MJPEG", "VP9", "AV1"], "ok")
    monkeypatch.setattr(codecs, "round_trip", lambda: 100.0)
    assert codecs.check()[0].state == "problem"
    assert codecs._decoder("no-such-codec", "X").state == "missing"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Wayland and X11")
def test_without_a_display_the_line_without_a_window_is_given(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    [finding] = display.check()
    assert (finding.state, "svg-live --headless" in finding.advice) == ("missing", True)
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert display.display_kind() == "Wayland"


def test_damaged_bundles_in_this_folder_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EMBEDDED_MODEL, tmp_path / "good.svgb")
    shutil.copytree(EMBEDDED_MODEL, tmp_path / "bad.svgb")
    next((tmp_path / "bad.svgb").rglob("*.onnx")).write_bytes(b"")
    found = states(models.check())
    assert found == {"camera (embedded)": "ok", "digits (embedded)": "ok", "bad.svgb": "problem", "good.svgb": "ok"}


def test_a_cache_folder_that_cannot_be_written_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "file" / "cache"))
    assert storage.check()[0].state == "problem"
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path))
    (tmp_path / "file").write_bytes(bytes(2_000_000))
    assert storage.check()[0].detail == f"{tmp_path}: 2 MB in 1 files, writable"
    monkeypatch.setattr(storage, "_LITTLE", float("inf"))
    assert storage.check()[1].state == "problem"


def test_a_cache_folder_in_one_that_may_not_be_entered_hides_no_other_finding(tmp_path, monkeypatch):
    """Here the tests may be root's, who may enter all."""
    closed = tmp_path / "closed"
    stat = os.stat

    def refuse(path, *arguments, **options):
        if isinstance(path, (str, Path)) and closed in Path(path).parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *arguments, **options)

    closed.mkdir()
    monkeypatch.setenv("SVG_EDGE_CACHE", str(closed / "cache" / "svg"))
    monkeypatch.setattr(os, "stat", refuse)
    assert [finding.name for finding in storage.check()] == ["cache folder", "disk of the cache", "disk here"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always looks into the current folder")
def test_a_file_in_this_folder_does_not_replace_a_module(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    assert states(Check("Storage", "storage").run())["disk here"] == "ok"


def test_a_backend_forecasts_or_says_what_is_missing(monkeypatch):
    assert states(backend.check("cpu")) == {"cpu": "ok"}
    monkeypatch.setitem(sys.modules, "openvino", None)
    [missing] = backend.check("openvino")
    assert (missing.state, "svg-edge[openvino]" in missing.advice) == ("missing", True)


@pytest.mark.parametrize("name", ["cpu", "openvino"])
@pytest.mark.parametrize("given", [True, False], ids=["SVG_EDGE_CACHE", "HOME"])
def test_a_backend_is_tried_without_a_trace(name, given, tmp_path, monkeypatch):
    """OpenVINO keeps compiled graphs, in a folder that it makes."""
    temporary, cache = tmp_path / "temporary", tmp_path / "none" / "cache"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("SVG_EDGE_CACHE", str(cache))
    if not given:
        monkeypatch.delenv("SVG_EDGE_CACHE")
    assert states(backend.check(name)) == {name: "ok"}
    assert list(tmp_path.rglob("*")) == [temporary]
    assert os.environ.get("SVG_EDGE_CACHE") == (str(cache) if given else None)


def test_an_engine_that_is_not_built_does_not_mean_that_there_is_a_gpu(monkeypatch):
    """It is said first, before any library is loaded."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert backend.check("ort-tensorrt")[0].state == "missing"


# ---- The report ----


def test_whom_it_belongs_to_is_not_told():
    names = ("/home/ann", "ann", "pole-7")
    text = "/home/ann/.cache, /home/annabel, /data/ann/x, C:\\Users\\ann, annual, pole-7: pole-70, rtsp://u:secret@h/x"
    assert (
        anonymous(text, names)
        == "~/.cache, /home/annabel, /data/USER/x, C:\\Users\\USER, annual, HOST: pole-70, rtsp://...@h/x"
    )
    assert anonymous("/srv/x root a", ("/", "root", "")) == "/srv/x root a"


def test_lines_fit_except_what_is_to_be_copied():
    advice = f"pip install {'x' * 90}; or this"
    report = {BACKENDS: [Finding("cpu", "missing", "a reason that goes on " * 9, advice), Finding("y", "untried", "")]}
    lines = list(text_lines(report))
    assert [line for line in lines if len(line) > 80] == [f"      > pip install {'x' * 90}"]
    assert "      > or this" in lines
    assert all(line.isascii() and line == line.rstrip() for line in lines)


def test_the_verdict_follows_the_backends():
    for found, runs, words in (
        ([Finding("a", "ok", ""), Finding("b", "ok", ""), Finding("c", "missing", "")], True, "can run here: a, b work."),
        ([Finding("a", "ok", "")], True, "can run here: a works."),
        ([Finding("a", "untried", "")], True, "may run here, when engines are built: a not tried."),
        ([Finding("a", "problem", "")], False, "cannot run here"),
    ):
        report = {BACKENDS: found}
        assert can_run(report) is runs
        assert words in verdict(report)
        for module, package in (("cv2", "opencv-python"), ("av", "av")):
            broken = Finding(f"import {module}", "problem", "", f"pip install --force-reinstall {package}")
            report = {INSTALLED: [broken], BACKENDS: found}
            assert not can_run(report)
            assert f"import {module} fails. Start with: {broken.advice}" in verdict(report)
        report = {INSTALLED: [Finding("import cv2", "unchecked", "full", "free some")], BACKENDS: found}
        assert not can_run(report)
        assert "not known whether svg-live can run here: import cv2: full. Start with: free some" in verdict(report)
        report = {BACKENDS: [*found, Finding("d", "unchecked", "full", "free some")]}
        assert can_run(report) is runs
        assert (words if runs else "not known whether svg-live can run here: d: full.") in verdict(report)
        report = {INSTALLED: [Finding("OpenCV", "problem", "two overwrite each other")], BACKENDS: found}
        assert can_run(report) is runs
        assert words in verdict(report)


@pytest.mark.parametrize("package", ["onnxruntime", "onnxruntime-gpu"])
def test_a_package_that_is_there_and_does_not_work_is_to_be_replaced(package):
    report = {INSTALLED: [Finding(package, "info", "1.20")], BACKENDS: [Finding("cpu", "missing", "it does not load")]}
    assert verdict(report).endswith(f"Start with: pip install --force-reinstall {package}")
    assert verdict({BACKENDS: report[BACKENDS]}).endswith("Start with: pip install 'svg-edge[cpu]'")


# ---- The command ----


def test_the_whole_report(tmp_path, capsys):
    get_command(cli.app)(["--json", str(tmp_path / "doctor.json")], standalone_mode=False)
    text = capsys.readouterr().out
    report = json.loads((tmp_path / "doctor.json").read_text(encoding="utf-8"))
    assert report["can_run"] is True
    assert list(report["sections"]) == list(dict.fromkeys(check.title for check in cli.all_checks()))
    assert all(title in text.splitlines() for title in report["sections"])
    assert {row["name"]: row["state"] for row in report["sections"][BACKENDS]}["cpu"] == "ok"
    home, _, _ = private_names()
    assert f"{home}/" not in text


@pytest.mark.parametrize("module", ["cv2", "av"])
def test_without_what_every_run_imports_the_exit_code_says_so(module, tmp_path, monkeypatch, capsys):
    (tmp_path / f"{module}.py").write_text("raise ImportError('hidden')")
    monkeypatch.syspath_prepend(tmp_path)
    installed_and_cpu = [each for each in cli.all_checks() if each.title == INSTALLED or each.name == "cpu"]
    monkeypatch.setattr(cli, "all_checks", lambda: installed_and_cpu)
    with pytest.raises(typer.Exit) as end:
        cli.doctor(json=None)
    assert end.value.exit_code == ExitCode.BACKEND_MISSING
    text = " ".join(capsys.readouterr().out.split())
    assert f"!! import {module} ImportError: hidden > pip install --force-reinstall" in text


def test_without_any_backend_the_exit_code_says_so(tmp_path, monkeypatch, capsys):
    package = tmp_path / "onnxruntime"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('broken wheel')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cli, "all_checks", lambda: [Check(BACKENDS, "backend", ("cpu",)), Check("Storage", "storage")])
    with pytest.raises(typer.Exit) as end:
        cli.doctor(json=None)
    assert end.value.exit_code == ExitCode.BACKEND_MISSING
    text = capsys.readouterr().out
    assert "broken wheel" in " ".join(text.split())
    assert "Storage" in text  # the rest is looked at all the same
