"""How `svg-forecast --ray` connects, with a stand-in for Ray; a wait that a signal ends is in a process of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import textwrap
from types import ModuleType

import pytest

from svg_common.errors import ExitCode, SvgError, UsageError
from svg_runtime.offline.ray_cluster import check_room, connect_to_ray

NO_CLUSTER = "127.0.0.1:1"  # nobody listens there


@pytest.fixture
def stand_in(monkeypatch) -> ModuleType:
    """Ray, with what was done in `calls`; `init` may be replaced."""
    ray, raylet = ModuleType("ray"), ModuleType("ray._raylet")
    ray.calls = []
    ray.init = lambda **options: ray.calls.append("init")
    raylet.setproctitle = ray.calls.append
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray._raylet", raylet)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_NUM_REDIS_GET_RETRIES", "2")
    return ray


def raising(error: BaseException):
    def init(**options):
        raise error

    return init


@pytest.mark.parametrize("address", [NO_CLUSTER, f"ray://{NO_CLUSTER}"])
def test_a_cluster_that_does_not_answer_is_named_before_ray_waits_for_it(stand_in, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(SvgError, match=f"RAY_ADDRESS '{address}'.*refused\n  check that it runs there") as refused:
        connect_to_ray()
    assert refused.value.exit_code == ExitCode.ERROR
    assert not stand_in.calls


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("bogus://x", RuntimeError("Module: bogus does not exist.\nThis module was parsed from Address: bogus://x")),
        ("bogus", ValueError("Invalid address format: bogus")),
        ("127.0.0.1:99999", None),
        ("a..b:6379", None),
    ],
)
def test_an_address_that_is_none_of_ray_is_a_usage_error(stand_in, monkeypatch, address, error):
    monkeypatch.setenv("RAY_ADDRESS", address)
    stand_in.init = raising(error)
    with pytest.raises(UsageError, match=f"invalid RAY_ADDRESS '{address}': .*\n  expected host:port"):
        connect_to_ray()


def test_what_ray_says_of_a_cluster_is_part_of_the_message(stand_in, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        stand_in.init = raising(ConnectionError("Failed to connect to Ray cluster"))
        with pytest.raises(SvgError, match=f"RAY_ADDRESS '{address}': Failed to connect to Ray cluster\n"):
            connect_to_ray()


def test_ray_that_cannot_start_here_ends_with_advice(stand_in):
    stand_in.init = raising(RuntimeError("Failed to start GCS"))
    with pytest.raises(SvgError, match=r"Ray cannot start on this machine: Failed to start GCS\n.*ray stop"):
        connect_to_ray()


def test_arguments_are_hidden_before_ray_reads_them(stand_in):
    connect_to_ray()
    assert stand_in.calls == ["svg-forecast --ray", "init"]


def test_signals_are_handled_as_before(stand_in):
    before = signal.getsignal(signal.SIGTERM)
    stand_in.init = lambda **options: signal.signal(signal.SIGTERM, lambda *given: None)
    connect_to_ray()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("error", [None, RuntimeError("the start was interrupted")])
def test_a_signal_interrupts_whatever_ray_makes_of_it(stand_in, error):
    def init(**options):
        signal.signal(signal.SIGTERM, lambda *given: None)
        signal.raise_signal(signal.SIGTERM)
        if error is not None:
            raise error

    stand_in.init = init
    with pytest.raises(KeyboardInterrupt):
        connect_to_ray()


@pytest.fixture
def machines(stand_in) -> None:
    """Three machines, of which the largest is gone."""
    resources = [{"CPU": 64.0, "memory": 1e9}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 999.0, "GPU": 8.0}]
    stand_in.nodes = lambda: [{"Alive": found["CPU"] < 999, "Resources": found} for found in resources]


@pytest.mark.usefixtures("machines")
@pytest.mark.parametrize(("cpus", "gpus"), [(1, 0.0), (64, 0.0), (8, 1.0), (8, 0.25)])
def test_a_worker_may_take_what_one_machine_has(logged, cpus, gpus):
    check_room(cpus, gpus)
    assert not logged.text


@pytest.mark.usefixtures("machines")
@pytest.mark.parametrize(
    ("cpus", "gpus", "closest"),
    [(65, 0.0, "64 CPUs and 0 GPUs"), (1, 2.0, "8 CPUs and 1 GPU"), (9, 0.5, "8 CPUs and 1 GPU")],
)
def test_a_worker_that_fits_on_no_machine_is_refused(logged, monkeypatch, cpus, gpus, closest):
    """Ray would wait for one without a word. Only a cluster may start one."""
    with pytest.raises(UsageError, match=rf"takes {cpus} CPUs? and {gpus:g} GPUs, .* {closest}\n  lower --threads or"):
        check_room(cpus, gpus)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_room(cpus, gpus)
    assert f"{closest}; waiting until the cluster starts one." in logged.text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process can handle")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_wait_that_its_handler_does_not_end(number):
    program = textwrap.dedent("""
        import sys, time
        from types import ModuleType
        from svg_common.signals import handle_stop_signals_as_sigint
        from svg_runtime.offline.ray_cluster import connect_to_ray

        def init(**options):
            while True:
                try:
                    print("waiting", flush=True)
                    time.sleep(60)
                except BaseException:
                    pass  # Ray waits on in C++

        ray, raylet = ModuleType("ray"), ModuleType("ray._raylet")
        ray.init = init
        raylet.setproctitle = lambda title: None
        sys.modules |= {"ray": ray, "ray._raylet": raylet}
        handle_stop_signals_as_sigint()
        connect_to_ray()
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout.readline() == "waiting\n"
            run.send_signal(number)
            _, message = run.communicate(timeout=30)
        finally:
            run.kill()
    assert (run.returncode, message) == (ExitCode.INTERRUPTED, "error: interrupted\n")
