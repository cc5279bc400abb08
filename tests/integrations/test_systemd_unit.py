"""The unit file: systemd accepts it, and a real systemd treats svg-live as it says."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "integrations" / "systemd"
UNIT = (FOLDER / "svg-live@.service").read_text()
MOST_EXPOSED = 2.0  # of 10, by systemd-analyze security; docs/service.md says how much it is

DOCS = FOLDER.parents[1] / "docs"

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def analyze(*arguments: str) -> str:
    """Both outputs of systemd-analyze: it exits with 0 in spite of some warnings, and they are what matters."""
    run = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


@needs_analyze
@pytest.mark.parametrize("drop_ins", [(), ("jetson.conf",)])
def test_systemd_accepts_the_unit(tmp_path, drop_ins):
    """With a program that exists: the one of the unit is installed by its first comment."""
    (tmp_path / "svg-live@.service").write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT, flags=re.M))
    (tmp_path / "svg-live@.service.d").mkdir()
    for name in drop_ins:
        shutil.copy(FOLDER / name, tmp_path / "svg-live@.service.d")
    assert analyze("verify", "--man=no", str(tmp_path / "svg-live@gate.service")) == ""


@needs_analyze
def test_verification_notices_mistakes(tmp_path):
    (tmp_path / "svg-live@.service").write_text(UNIT.replace("WatchdogSec", "WatchDogSeconds"))
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "svg-live@gate.service")], capture_output=True, text=True
    )
    assert "WatchDogSeconds" in run.stderr


@needs_analyze
def test_the_service_is_not_exposed():
    level = re.search(
        r"Overall exposure level for \S+: ([\d.]+)", analyze("security", "--offline=true", str(FOLDER / "svg-live@.service"))
    )
    assert level is not None
    assert float(level[1]) < MOST_EXPOSED


def test_the_service_starts_after_the_time_is_set_where_something_waits_for_that():
    """Else a board without a battery names its first recordings of a boot by a time that is long past."""
    assert "After=time-sync.target" in UNIT.splitlines()
    assert "Wants=time-sync.target" not in UNIT.splitlines()  # which is for what sets the time: see systemd.special(7)


@pytest.mark.parametrize(
    "file", [FOLDER / "svg-live@.service", DOCS / "service.md", DOCS / "jetson.md"], ids=lambda file: file.name
)
def test_a_service_is_installed_with_what_its_options_may_need(file):
    """Where an extra is missing, it ends with exit code 4, after which it is not started again."""
    (extras,) = re.findall(r"/opt/svg-edge/bin/pip install '[^']*\[(.*?)\]'", file.read_text())
    assert {"mqtt", "serve"} <= set(extras.split(","))


@pytest.mark.parametrize("name", [path.name for path in FOLDER.glob("*.conf")])
def test_no_drop_in_unsets_what_a_dynamic_user_forces(name):
    """systemd says nothing about such a line, and goes on as if it were not there."""
    assert "DynamicUser=yes" in UNIT.splitlines()
    settings = [line.partition("=")[0] for line in (FOLDER / name).read_text().splitlines()]
    assert not {"PrivateTmp", "RemoveIPC", "NoNewPrivileges", "RestrictSUIDSGID"} & set(settings)


# Settings that let a service use certain devices, by a DeviceAllow= or DevicePolicy= of their own: see systemd.exec(5).
IMPLY_DEVICES = {
    "PrivateDevices", "ProtectClock", "RootImage", "MountImages", "ExtensionImages", "LoadCredentialEncrypted",
    "SetCredentialEncrypted",
}  # fmt: skip


def test_a_jetsons_service_may_use_every_device():
    """With DevicePolicy=auto, a single allowed device closes all others, also one that another setting implies."""
    in_force: dict[str, list[str]] = {}
    for line in (UNIT + (FOLDER / "jetson.conf").read_text()).splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            in_force[name] = [*in_force.get(name, ()), value] if value else []
    assert in_force["DevicePolicy"][-1] == "auto"
    assert in_force["DeviceAllow"] == []
    assert {name for name in IMPLY_DEVICES if in_force.get(name, ["no"])[-1] != "no"} == set()


@needs_analyze
def test_a_jetsons_service_may_not_set_the_clock():
    """Though ProtectClock= is off there: by the system calls and capabilities that the unit allows."""
    assert "CapabilityBoundingSet=" in UNIT.splitlines()
    assert re.findall("^SystemCallFilter=(.*)$", UNIT, re.M) == ["@system-service"]

    def calls(group: str) -> set[str]:
        """Those of a group and of the groups in it."""
        words = analyze("syscall-filter", group).split("\n")[1:]
        names = {word.strip() for word in words if word.strip() and not word.strip().startswith("#")}
        return {call for name in names for call in (calls(name) if name.startswith("@") else {name})}

    assert "clock_settime" in calls("@clock")
    assert not calls("@clock") & calls("@system-service")


# ---- A real systemd ----

# Of a user, in a mount namespace of its own: a machine without systemd as its first process gets it this way too.
BOOT = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system /run/user/0
export XDG_RUNTIME_DIR=/run/user/0
{systemd} --user --log-target=null &
trap "kill $!" EXIT
for second in $(seq 100); do systemctl --user is-system-running >/dev/null 2>&1 && break; sleep 0.1; done
{commands}
"""
RULES = ("Type", "NotifyAccess", "Restart", "RestartPreventExitStatus", "SuccessExitStatus")
SHOWN = "ActiveState,SubState,Result,NRestarts,StatusText"


def systemd_program() -> str | None:
    found = [path for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if Path(path).exists()]
    may = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/run"], capture_output=True) if found else None
    return found[0] if may is not None and may.returncode == 0 else None


def run_under_systemd(home: Path, units: dict[str, str], commands: str) -> list[dict[str, str]]:
    """Run shell commands beside a systemd that knows the units; what each `show UNIT` of them printed."""
    systemd = systemd_program()
    if systemd is None:
        pytest.skip("needs root, unshare and systemd")
    folder = home / ".config" / "systemd" / "user"
    folder.mkdir(parents=True)
    rules = "\n".join(line for line in UNIT.splitlines() if line.partition("=")[0] in RULES)
    for name, lines in units.items():
        (folder / f"{name}.service").write_text(f"[Service]\n{rules}\n{lines}\n")
    show = f'show() {{ systemctl --user show -p {SHOWN} "$1"; echo; }}\n'
    script = BOOT.format(systemd=systemd, commands=show + commands)
    command = ["unshare", "-m", "bash", "-c", script]
    environment = {**os.environ, "HOME": str(home)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    blocks = run.stdout.strip().split("\n\n")
    found = [dict(line.split("=", 1) for line in block.splitlines()) for block in blocks if "ActiveState=" in block]
    assert found, run.stderr
    return found


def test_exit_codes_that_a_restart_cannot_mend_end_the_service(tmp_path):
    codes = {"usage": 2, "missing": 4, "lost": 5, "bug": 1}
    units = {name: f"RestartSec=1h\nExecStart=/bin/sh -c 'exit {code}'" for name, code in codes.items()}
    names = " ".join(codes)
    shown = run_under_systemd(
        tmp_path, units, f"systemctl --user start {names} 2>/dev/null; sleep 0.3; for n in {names}; do show $n; done"
    )
    states = {name: (state["ActiveState"], state["SubState"]) for name, state in zip(codes, shown, strict=True)}
    assert states == {
        "usage": ("failed", "failed"),
        "missing": ("failed", "failed"),
        "lost": ("activating", "auto-restart"),
        "bug": ("activating", "auto-restart"),
    }


def test_a_service_that_is_stopped_before_its_first_picture_has_not_failed(tmp_path):
    early = "ExecStart=/bin/sh -c 'trap \"exit 130\" TERM; sleep 60 & wait'"
    (state,) = run_under_systemd(
        tmp_path,
        {"early": early},
        "systemctl --user start --no-block early; sleep 0.3; systemctl --user stop early; show early",
    )
    assert (state["ActiveState"], state["Result"]) == ("inactive", "success")


def test_a_jetsons_service_sees_the_socket_of_the_camera_daemon_in_its_private_tmp(tmp_path, monkeypatch):
    """The socket is another one here, of the same name: a file of tests below /tmp is hidden by a private /tmp, too."""
    (bind,) = re.findall(r"^BindPaths=-/tmp/argus_socket$", (FOLDER / "jetson.conf").read_text(), re.M)
    assert "PrivateTmp=yes" in UNIT.splitlines()
    monkeypatch.chdir(tmp_path)  # the path of a socket has at most 107 characters
    units = {
        name: f"Type=oneshot\nRestart=no\nRemainAfterExit=yes\nPrivateTmp=yes\n{line}\nExecStart=/usr/bin/test {condition}"
        for name, line, condition in (
            ("bound", bind.replace("/tmp", str(tmp_path)), f"-S {tmp_path}/argus_socket"),
            ("none", bind.replace("/tmp/argus", f"{tmp_path}/no"), "! -e /tmp/argus_socket"),
        )
    }  # fmt: skip
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind("argus_socket")
        shown = run_under_systemd(tmp_path / "home", units, "systemctl --user start bound none; show bound; show none")
    assert [(state["ActiveState"], state["Result"]) for state in shown] == [("active", "success")] * 2


def test_systemd_waits_for_the_first_picture_and_restarts_a_run_that_hangs(tmp_path):
    options = "--model digits --backend cpu --threads 1 --samples 2 --horizon 2 --headless --realtime --json /dev/null"
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "SVG_EDGE_CACHE": tmp_path / "cache", "OMP_NUM_THREADS": 1}
    unit = "\n".join([
        "WatchdogSec=5s", "RestartSec=1h", *(f"Environment={name}={value}" for name, value in environment.items()),
        f'ExecStart={sys.executable} -c "from svg_runtime.live.cli import main; main()" {options}',
    ])  # fmt: skip
    stop = "kill -STOP $(systemctl --user show -p MainPID --value live)"
    until = "until show live | grep -q SubState=auto-restart; do sleep 0.2; done"
    running, hung = run_under_systemd(
        tmp_path, {"live": unit}, f"systemctl --user start live; show live; {stop}; {until}; show live"
    )
    assert (running["ActiveState"], running["SubState"]) == ("active", "running")
    assert running["StatusText"] == "running"
    assert (hung["SubState"], hung["Result"]) == ("auto-restart", "watchdog")
