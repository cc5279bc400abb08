"""Connects to the cluster of $RAY_ADDRESS, or starts Ray on this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from threading import Event, Thread
from urllib.parse import urlsplit

from svg_common.errors import ExitCode, SvgError, UsageError, first_line
from svg_common.signals import stop_signals

_LOG = logging.getLogger(__name__)
_ADDRESS = "RAY_ADDRESS"
_CONNECT_S = 5.0
_STOP_S = 2.0  # for the orderly end after a signal, before the process is ended
_SMALLER = "lower --threads or --ray-gpus"
_EXPECTED = "expected host:port, ray://host:port or auto; without it, Ray starts on this machine"


def connect_to_ray() -> None:
    """Connect to Ray; signals are then handled as before.

    Raises:
        UsageError: RAY_ADDRESS is not an address of Ray.
        SvgError: the cluster does not answer, or Ray cannot start here.
        KeyboardInterrupt: a signal came meanwhile.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports to its makers unless told otherwise
    address = os.environ.get(_ADDRESS, "")
    if address:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")  # attempts, each of 40 s; by default, 20
    import ray

    handlers = {number: signal.getsignal(number) for number in stop_signals()}
    with _signals_end_waits():
        _check_reachable(address)
        try:
            _hide_arguments()
            ray.init(logging_level=logging.ERROR, ignore_reinit_error=True)
        except SystemExit as end:  # only by the handler of SIGTERM that Ray has while it starts
            raise KeyboardInterrupt from end
        except Exception as error:  # it has no kind of its own for this
            raise _connection_error(address, error) from error
        finally:
            for number, handler in handlers.items():
                if signal.getsignal(number) is not signal.SIG_IGN:  # a closed terminal may signal again
                    signal.signal(number, handler)  # at Ray's own, SIGTERM aborts the process


def check_room(cpus: int, gpus: float) -> None:
    """Refuse workers that fit on no machine of Ray: it would wait for a larger one, without a word.

    The cluster of RAY_ADDRESS may start a larger one when it is asked to, so there it is a warning.

    Args:
        cpus: that each worker takes.
        gpus: that each worker takes.

    Raises:
        UsageError: they fit on no machine.
    """
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    machines = [(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in alive]
    if any(has_cpus >= cpus and has_gpus >= gpus for has_cpus, has_gpus in machines):
        return
    closest = max(machines, key=lambda machine: (min(machine[1], gpus), machine[0]), default=(0.0, 0.0))
    lack = (
        f"a worker of --ray takes {_resources_text(cpus, gpus)}, and no machine of Ray has them; "
        f"the closest has {_resources_text(*closest)}"
    )
    if not os.environ.get(_ADDRESS):
        raise UsageError(f"{lack}\n  {_SMALLER}")
    _LOG.warning("%s; waiting until the cluster starts one. If it never does, press Ctrl-C, and %s", lack, _SMALLER)


def _resources_text(cpus: float, gpus: float) -> str:
    return f"{cpus:g} {'CPU' if cpus == 1 else 'CPUs'} and {gpus:g} {'GPU' if gpus == 1 else 'GPUs'}"


def _check_reachable(address: str) -> None:
    """Connect once to the port of `address`, if it has one: Ray itself would try for many minutes."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _connection_error(address, error) from error
    if host is None or port is None or parts.scheme not in ("", "ray"):
        return
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except (OSError, UnicodeError) as error:  # the second of a name that cannot be one of a host
        raise _connection_error(address, error) from error


def _connection_error(address: str, error: Exception) -> SvgError:
    if not address:
        return SvgError(
            f"Ray cannot start on this machine: {first_line(error)}\n"
            "  `ray stop` ends what an earlier run of Ray has left here; then run the same command again"
        )
    if isinstance(error, ValueError) or str(error).startswith("Module:"):  # of what stands before ://
        return UsageError(f"invalid {_ADDRESS} '{address}': {first_line(error)}\n  {_EXPECTED}")
    return SvgError(
        f"cannot connect to the Ray cluster of {_ADDRESS} '{address}': {first_line(error)}\n"
        f"  check that it runs there; {_EXPECTED}"
    )


def _hide_arguments() -> None:
    """Take the arguments out of the command line that the system shows of this process.

    They may have passwords and signatures, which Ray would show to all users of the cluster, in its table of jobs and on its
    dashboard; and names that are not UTF-8, which it refuses. It reads them from the system, and has no option for that.
    """
    raylet = import_module("ray._raylet")
    titles = raylet if hasattr(raylet, "setproctitle") else import_module("setproctitle")  # which Ray 2.40 comes with
    titles.setproctitle("svg-forecast --ray")


@contextmanager
def _signals_end_waits() -> Iterator[None]:
    """Let a signal end the process where Ray waits in C++, in which no handler of Python runs.

    Raises:
        KeyboardInterrupt: a signal came meanwhile, also where Ray has lost the exception of its handler.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    numbers = stop_signals()
    came = Event()
    over = Event()

    def watch() -> None:
        while (number := os.read(read_end, 1)) and number[0] not in numbers:  # nothing when the other end is closed
            pass
        os.close(read_end)
        if not number:
            return
        came.set()
        if not over.wait(_STOP_S):
            os.write(2, b"error: interrupted\n")
            os._exit(ExitCode.INTERRUPTED)

    previous = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    watcher = Thread(target=watch, name="svg-ray-signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(previous)
        os.close(write_end)
        watcher.join()
        if came.is_set():  # whatever Ray makes of it
            raise KeyboardInterrupt
