"""The wheel as a user gets it: installed by pipx, without torch and away from the repository, every command run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_LIMIT_S = 600
_BLIND = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIPX_DEFAULT_PYTHON")
# Command that asks for an extra which is not installed -> the extra that it has to name.
_WITHOUT = {
    ("svg-live", "--headless", "--max-frames", "5"): "cpu",
    ("svg-serve",): "serve",
    ("svg-forecast", ".", "--out", "forecasts"): "forecast",
    ("svg-train", "--config", "embedded-digits", "--out", "run"): "train",
    ("svg-export", "ckpt.pt"): "export",
    ("svg-eval", "ckpt.pt"): "eval",
}


class InstalledWheel:
    """A wheel in an environment of pipx, below `folder`.

    Args:
        folder: a new one.
        constraints: exact versions of what it needs.
        log: gets a line for every command that is run.
    """

    def __init__(self, folder: Path, constraints: Path, log: Callable[[str], None]) -> None:
        self._bin = folder / "bin"
        self._elsewhere = folder / "elsewhere"
        self._elsewhere.mkdir(parents=True)
        self._constraints = constraints
        self._log = log
        own = {
            "PIPX_HOME": folder / "pipx",
            "PIPX_BIN_DIR": self._bin,
            "PIPX_MAN_DIR": folder / "man",
            "SVG_EDGE_CACHE": folder / "cache",
        }
        self._environment = {name: value for name, value in os.environ.items() if name not in _BLIND}
        self._environment.update({name: str(path) for name, path in own.items()})

    def check(self, wheel: Path, version: str) -> list[str]:
        """Install the wheel and run its commands; returns what is wrong."""
        problems = self._pipx("install", str(wheel))
        if problems:
            return problems
        commands = sorted(file.name for file in self._bin.iterdir())
        problems = self._say_what_they_are(commands, version)
        problems += self._name_the_extra()
        without_it = self._pipx("inject", "svg-edge", "onnxruntime")
        return problems + (without_it or self._forecast(version))

    def _say_what_they_are(self, commands: list[str], version: str) -> list[str]:
        problems = [] if len(commands) == 8 else [f"8 commands were expected, and installed were: {', '.join(commands)}"]
        for command in commands:
            problems += self._expect(0, f"{command} {version}", command, "--version")
            problems += self._expect(0, "--version", command, "--help")
        return problems

    def _name_the_extra(self) -> list[str]:
        """Exit code 4, and how to install what is missing."""
        (self._elsewhere / "ckpt.pt").write_bytes(b"")
        pairs = [self._expect(4, f"svg-edge[{extra}]", *command) for command, extra in _WITHOUT.items()]
        return [problem for each in pairs for problem in each]

    def _forecast(self, version: str) -> list[str]:
        """With ONNX Runtime: svg-live on the synthetic camera, svg-doctor, and a short svg-bench."""
        small = ("--backend", "cpu", "--samples", "2", "--horizon", "3")
        problems = self._expect(
            0, "", "svg-live", "--headless", "--max-frames", "30", *small, "--output", "forecast.mp4", "--json", "live.json"
        )
        problems += self._expect(0, f"svg-doctor {version}", "svg-doctor", "--json", "doctor.json")
        problems += self._expect(0, "", "svg-bench", *small, "--seconds", "0.2", "--json", "bench.json")
        if problems:
            return problems
        live, doctor, bench = (
            json.loads((self._elsewhere / f"{name}.json").read_text()) for name in ("live", "doctor", "bench")
        )
        stated = {"svg-doctor": doctor["svg_edge"], "svg-bench": bench["versions"]["svg-edge"]}
        wrong = [f"{command} states the version {found}" for command, found in stated.items() if found != version]
        if live["frames"]["seen"] != 30 or (self._elsewhere / "forecast.mp4").stat().st_size < 10_000:
            wrong.append(f"svg-live made {live['frames']}; expected 30 that are seen")
        if "torch" in bench["versions"]:
            wrong.append("torch is installed, which the runtime does without")
        return wrong

    def _expect(self, code: int, words: str, *command: str) -> list[str]:
        """Run a command outside of the repository; returns a problem if its exit code or its output is another."""
        self._log(" ".join(command))
        done = self._run(str(self._bin / command[0]), *command[1:])
        if done.returncode == code and words in done.stdout:
            return []
        return [f"{' '.join(command)}: exit code {done.returncode}; expected {code}, and '{words}' in:\n{done.stdout[-2000:]}"]

    def _pipx(self, *arguments: str) -> list[str]:
        """Run pipx; returns a problem if it fails."""
        self._log("pipx " + " ".join(arguments))
        done = self._run(sys.executable, "-m", "pipx", *arguments, f"--pip-args=--constraint={self._constraints}")
        return [] if done.returncode == 0 else [f"pipx {' '.join(arguments)} failed:\n{done.stdout}"]

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command, at most for the limit of time: its exit code is then that of `timeout`."""
        try:
            return subprocess.run(
                command,
                cwd=self._elsewhere,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            printed = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
            return subprocess.CompletedProcess(command, 124, f"{printed}\nstopped after {_LIMIT_S} s")
