"""Starts Triton Inference Server on this machine without a container: that of the wheel nvidia-pytriton, without a GPU too.

    pip install --no-deps nvidia-pytriton
    python integrations/triton/local_server.py models/python [--http-port 8000] [--grpc-port 8001] [--metrics-port 8002]

It has the Python backend alone, and listens on loopback. The model runs in the Python that runs this program. The wheel is
installed without its dependencies because these exclude NumPy 2, and are for another program in it.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from pathlib import Path

import svg_common
import svg_runtime

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is here, whatever proxy there may be
_READY_S = 120.0  # a large model that measures backends for the first time


class LocalServer:
    """A server with the models of one repository. Use it as a context manager.

    Args:
        repository: folder of models, such as models/python.
        log: file that the server's log is appended to; None shows it.
        http_port, grpc_port, metrics_port: on loopback; 0 takes a free one.
        exit_timeout_s: how long the server waits at its end for sequences that go on.
        more_backends: folder of further backends, beside that for Python.

    Raises:
        FileNotFoundError: something that the server needs is not installed; see `missing`.
        RuntimeError: it has ended before it was ready.
    """

    def __init__(
        self,
        repository: Path,
        log: Path | None = None,
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        exit_timeout_s: int = 5,
        more_backends: Path | None = None,
    ) -> None:
        problem = missing()
        if problem is not None:
            raise FileNotFoundError(problem)
        self._log = log
        self._backends = tempfile.TemporaryDirectory(prefix="svg-triton-")
        self._shared_memory = Path(self._backends.name).name
        self.http, self.grpc, self.metrics = (
            f"127.0.0.1:{port or free_port()}" for port in (http_port, grpc_port, metrics_port)
        )
        self.process = self._start(repository, exit_timeout_s, more_backends)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> LocalServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server; its models are unloaded."""
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for region in Path("/dev/shm").glob(f"{self._shared_memory}*"):  # left there if sequences went on
            region.unlink(missing_ok=True)
        self._backends.cleanup()

    def metric(self, name: str) -> float:
        """The value of a metric of the server, summed over its labels."""
        with _DIRECT.open(f"http://{self.metrics}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def _start(self, repository: Path, exit_timeout_s: int, more_backends: Path | None) -> subprocess.Popen[bytes]:
        wheel = _wheel()
        assert wheel is not None
        if more_backends is not None:
            shutil.copytree(more_backends, self._backends.name, dirs_exist_ok=True)
        # The backend looks for the stub, the process that runs a model, beside itself.
        backend = Path(self._backends.name, "python")
        shutil.copytree(wheel / "backends" / "python", backend)
        shutil.copy(_stub(wheel), backend)
        for package in (svg_common, svg_runtime):  # those of this program, wherever it has them from; PYTHONPATH has no effect
            (backend / package.__name__).symlink_to(Path(package.__file__).parent)
        for program in (backend / _stub(wheel).name, wheel / "bin" / "tritonserver"):
            if not os.access(program, os.X_OK):
                program.chmod(0o755)
        command = [str(wheel / "bin" / "tritonserver"), f"--model-repository={repository}"]
        command += [f"--backend-directory={self._backends.name}", f"--exit-timeout-secs={exit_timeout_s}"]
        command += [f"--backend-config=python,shm-region-prefix-name={self._shared_memory}"]
        for kind, address in {"http": self.http, "grpc": self.grpc, "metrics": self.metrics}.items():
            host, _, port = address.partition(":")
            command += [f"--{kind}-address={host}", f"--{kind}-port={port}"]
        if self._log is None:
            return subprocess.Popen(command, env=_environment(wheel))
        with self._log.open("ab") as log:
            return subprocess.Popen(command, env=_environment(wheel), stdout=log, stderr=log)

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + _READY_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                with _DIRECT.open(f"http://{self.http}/v2/health/ready", timeout=5):
                    return
            except (OSError, http.client.HTTPException):  # the latter from what else may listen there
                time.sleep(0.1)
        raise RuntimeError(f"the server is not ready (exit code {self.process.poll()})\n{self._complaints()}")

    def _complaints(self) -> str:
        """The errors in the log, which says much else."""
        if self._log is None:
            return "  its log says why"
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if line.startswith("E") and "failed" in line)


def missing() -> str | None:
    """What the server needs and is not installed; None if it can start."""
    wheel = _wheel()
    if wheel is None:
        return "there is no Triton Inference Server here\n  pip install --no-deps nvidia-pytriton"
    if not _stub(wheel).is_file():
        return f"nvidia-pytriton has no Python backend for Python {_PYTHON}\n  expected one of its python_backend_stubs"
    if _libpython() is None:
        return f"this Python {_PYTHON} has no shared library\n  apt-get install libpython{_PYTHON}"
    return None


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wheel() -> Path | None:
    """The folder of the server in nvidia-pytriton, which is not imported: it needs packages that we do not."""
    spec = importlib.util.find_spec("pytriton")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "tritonserver"


def _stub(wheel: Path) -> Path:
    return wheel / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"


def _libpython() -> Path | None:
    """The folder with the shared library of this Python's version."""
    folders = [sysconfig.get_config_var("LIBDIR"), "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"]
    return next((Path(folder) for folder in folders if folder and Path(folder, f"libpython{_PYTHON}.so.1.0").exists()), None)


def _environment(wheel: Path) -> dict[str, str]:
    """For the server and the process that runs the model. That takes the environment of the first python3 in PATH."""
    libraries = [str(_libpython()), str(wheel.parents[1] / "nvidia_pytriton.libs"), os.environ.get("LD_LIBRARY_PATH", "")]
    programs = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "PATH": os.pathsep.join(filter(None, programs)),
    }


def main() -> None:
    """The command: serves until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--metrics-port", type=int, default=8002)
    options = parser.parse_args()
    ports = {"http_port": options.http_port, "grpc_port": options.grpc_port, "metrics_port": options.metrics_port}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server must end with this program
    try:
        with LocalServer(options.repository, **ports) as server:
            sys.exit(server.process.wait())
    except (FileNotFoundError, RuntimeError) as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
