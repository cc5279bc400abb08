"""Triton's own server with the Python backend: a sequence per camera gives what a Forecaster of its own gives."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socketserver
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc")

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from integrations.triton import local_server
from integrations.triton.local_server import LocalServer
from svg_export.triton.model_configs import ServingChoice
from svg_export.triton.repository import write_repositories
from svg_runtime import Forecaster
from svg_runtime.bundle.reader import Bundle
from svg_runtime.triton.sequences import seed_of
from tests.command_runner import wait_until
from tests.hub_server import serving
from tests.integrations.triton_helpers import (
    HORIZON,
    MODEL,
    SAMPLES,
    SERVER_HORIZON,
    Camera,
    server_bundle,
    set_parameters,
    write_repository,
)

pytestmark = pytest.mark.skipif(local_server.missing() is not None, reason=str(local_server.missing()))

ROOT = Path(__file__).parents[2]
CAMERAS, N_PAST, SEED = 32, 3, 5
IDLE_S = 3.0  # a busy machine may need a second between two frames
SEQUENCES = "svg_triton_sequences"  # the metric

# A client of the server at argv[1] that starts the sequences 1 and 2, and is then killed in the middle of its work.
CLIENT = f"""
import sys
import numpy as np
from tritonclient.grpc import InferenceServerClient
from tests.integrations.triton_helpers import Camera

cameras = [Camera(InferenceServerClient(sys.argv[1]), sequence) for sequence in (1, 2)]
frame = np.full((64, 64, 1), 0.5, np.float32)
for count in range(1_000_000):
    for camera in cameras:
        camera.send(frame, sequence_start=count == 0)
    if count == {N_PAST}:
        print("at work", flush=True)
"""


@pytest.fixture(scope="module")
def server(fused_bundle, tmp_path_factory) -> Iterator[LocalServer]:
    """With a place for each of 32 cameras."""
    folder = tmp_path_factory.mktemp("triton")
    repository = write_repository(fused_bundle, folder, cameras=CAMERAS, idle_s=600.0)
    set_parameters(repository / MODEL, seed=SEED)
    with LocalServer(repository, folder / "log", exit_timeout_s=1) as started:
        yield started


@pytest.fixture
def client(server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.grpc) as connected:
        yield connected


def open_forecaster(bundle: Path, sequence: int | str, seed: int = SEED) -> Forecaster:
    options = {"backend": "cpu", "threads": 1, "samples": SAMPLES, "horizon": HORIZON}
    return Forecaster.open(bundle, seed=seed_of(sequence, seed), **options)


def assert_same(answer, forecaster: Forecaster, frame: np.ndarray) -> None:
    """The answer to a frame is what the Forecaster says about it."""
    seen = forecaster.observe(frame)
    assert answer["missing_frames"] == max(0, N_PAST - seen.index - 1)
    assert answer["surprise"][0] == pytest.approx(np.nan if seen.surprise is None else seen.surprise, nan_ok=True, rel=1e-4)
    if forecaster.ready:
        np.testing.assert_allclose(answer["futures"], forecaster.forecast(), atol=1e-5)
    else:
        assert answer["futures"] is None


def test_32_cameras_in_any_order_get_the_frames_of_32_forecasters(server, client, fused_bundle):
    rng, runs = np.random.default_rng(0), server.metric("nv_inference_exec_count")
    names = [*range(1, CAMERAS), "door"]  # one of them has a name
    cameras = {name: Camera(client, name) for name in names}
    count = 0
    with ExitStack() as stack:
        each = {name: stack.enter_context(open_forecaster(fused_bundle, name)) for name in names}
        begun: set[int | str] = set()
        for _ in range(N_PAST + 3):
            due = [name for name in rng.permutation(np.array(names, object)) if rng.random() < 0.8]
            frames = {name: rng.random((64, 64, 1), np.float32) for name in due}
            sent = {name: cameras[name].send_soon(frames[name], sequence_start=name not in begun) for name in due}
            begun |= set(due)
            for name, answer in sent.items():
                assert_same(answer.result(timeout=60), each[name], frames[name])
            count += len(due)
    assert server.metric(SEQUENCES) == len(begun) == CAMERAS
    assert server.metric("nv_inference_exec_count") - runs < count  # some ran as batches: how many depends on the load
    for name in names:
        cameras[name].send(frames[due[0]], sequence_end=True)
    assert server.metric(SEQUENCES) == 0


def test_what_is_refused_hurts_no_other_sequence(server, client, fused_bundle):
    good, bad = Camera(client, 7), Camera(client, 8)
    rng = np.random.default_rng(1)
    first, *frames = rng.random((N_PAST + 7, 64, 64, 1), np.float32)
    with open_forecaster(fused_bundle, 7) as forecaster, open_forecaster(fused_bundle, 8) as hurt:
        assert_same(good.send(first, sequence_start=True), forecaster, first)
        assert_same(bad.send(first, sequence_start=True), hurt, first)
        hostile = {
            r"values lie in \[nan": np.full_like(first, np.nan),
            r"values lie in \[0.0, 300": np.full_like(first, 300.0) * (first > 0.5),
            "unexpected shape": first[:32],
            "data-type is 'FP64'": first.astype(float),
            "data-type is 'UINT8'": (255 * first).astype(np.uint8),
            "batch-size 1": None,  # two frames in one request
        }
        for (message, frame), next_frame in zip(hostile.items(), frames, strict=False):
            soon = good.send_soon(next_frame)  # at the same time
            with pytest.raises(InferenceServerException, match=message):
                send_two(client, first) if frame is None else bad.send(frame)
            assert_same(soon.result(timeout=60), forecaster, next_frame)
        assert_same(bad.send(frames[-1]), hurt, frames[-1])  # its own sequence goes on, too
        with pytest.raises(InferenceServerException, match="non-zero or non-empty correlation ID"):
            Camera(client, 0).send(first, sequence_start=True)
        assert_same(good.send(frames[-1], sequence_end=True), forecaster, frames[-1])
    bad.send(first, sequence_end=True)
    assert server.metric(SEQUENCES) == 0


def send_two(client: InferenceServerClient, frame: np.ndarray) -> None:
    """Two frames in one request."""
    from tritonclient.grpc import InferInput

    given = InferInput("frame", (2, *frame.shape), "FP32")
    given.set_data_from_numpy(np.stack([frame, frame]))
    client.infer(MODEL, [given], sequence_id=8)


def test_a_sequence_that_starts_again_forgets_and_repeats(client):
    camera = Camera(client, 3)
    frames = np.random.default_rng(2).random((N_PAST, 64, 64, 1), np.float32)
    runs = [[camera.send(frame, sequence_start=number == 0) for number, frame in enumerate(frames)] for _ in range(2)]
    assert [answer["missing_frames"] for answer in runs[1]] == [2, 1, 0]
    np.testing.assert_array_equal(runs[0][-1]["futures"], runs[1][-1]["futures"])
    camera.send(frames[0], sequence_end=True)


def test_without_futures_a_frame_is_observed_alone(client, fused_bundle):
    camera = Camera(client, 4)
    frames = np.random.default_rng(3).random((N_PAST + 2, 64, 64, 1), np.float32)
    with open_forecaster(fused_bundle, 4) as forecaster:
        for number, frame in enumerate(frames[:-1]):
            outputs = ("surprise", "missing_frames")
            answer = camera.send_soon(frame, outputs=outputs, sequence_start=number == 0).result(timeout=60)
            seen = forecaster.observe(frame)
            assert answer["missing_frames"] == max(0, N_PAST - number - 1)
        assert answer["surprise"][0] == pytest.approx(seen.surprise, rel=1e-4)
        # No noise was drawn for the forecasts that nobody asked for.
        assert_same(camera.send(frames[-1], sequence_end=True), forecaster, frames[-1])


def test_the_client_of_the_documentation(server, capsys):
    page = (ROOT / "docs" / "triton.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    program = program.replace("localhost:8001", server.grpc).replace('"ckpt"', f'"{MODEL}"')
    exec(program, {"frames": np.random.default_rng(5).random((N_PAST + 1, 64, 64, 1), np.float32)})
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "[[2]] [[nan]] None"
    assert re.fullmatch(r"\[\[0\]\] \[\[[\d.]+\]\] 0\.\d+", last)


def test_killed_clients_are_freed_and_a_new_server_asks_for_the_context(fused_bundle, tmp_path):
    repository = write_repository(fused_bundle, tmp_path / "models", cameras=2, idle_s=IDLE_S)
    frames = np.random.default_rng(4).random((N_PAST + 1, 64, 64, 1), np.float32)
    with LocalServer(repository, tmp_path / "log", exit_timeout_s=1) as server:
        process = subprocess.Popen([sys.executable, "-c", CLIENT, server.grpc], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "at work\n"
        assert server.metric(SEQUENCES) == 2
        process.send_signal(signal.SIGKILL)
        process.communicate()
        wait_until(lambda: server.metric(SEQUENCES) == 0, timeout_s=30)
        with InferenceServerClient(server.grpc) as client:
            cameras = [Camera(client, sequence) for sequence in (3, 4)]
            for number, frame in enumerate(frames[:-1]):  # there is room for two again
                answers = [camera.send(frame, sequence_start=number == 0) for camera in cameras]
            assert all(answer["futures"] is not None for answer in answers)
    with LocalServer(repository, tmp_path / "log", exit_timeout_s=1) as server, InferenceServerClient(server.grpc) as client:
        camera = Camera(client, 3)
        with pytest.raises(InferenceServerException, match=r"sequence 3 .* must specify the START flag on the first request"):
            camera.send(frames[-1])
        with open_forecaster(fused_bundle, 3, seed=0) as forecaster:
            for number, frame in enumerate(frames):
                assert_same(camera.send(frame, sequence_start=number == 0), forecaster, frame)


def test_a_model_that_cannot_open_says_why(fused_bundle, tmp_path):
    repository = write_repository(fused_bundle, tmp_path / "models")
    set_parameters(repository / MODEL, backend="abacus", futures=3)
    with pytest.raises(
        RuntimeError, match=r"(?s)invalid parameters in config.pbtxt.*futures.*expected some of: bundle, samples"
    ):
        LocalServer(repository, tmp_path / "log", exit_timeout_s=1)


def test_a_proxy_is_not_asked_for_what_is_on_this_machine(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # nothing is there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr("urllib.request._opener", None)  # that of earlier requests
    assert server.metric("nv_gpu_num_that_nobody_has") == 0


def test_a_port_that_another_service_has_is_said(fused_bundle, tmp_path):
    repository = write_repository(fused_bundle, tmp_path / "models")
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeting)) as service:
        port = service.server_address[1]
        with pytest.raises(RuntimeError, match=f"failed to start HTTP service: .*127.0.0.1:{port}"):
            LocalServer(repository, tmp_path / "log", http_port=port, exit_timeout_s=1)


class Greeting(socketserver.BaseRequestHandler):
    """A service that speaks first, and not HTTP."""

    def handle(self) -> None:
        self.request.sendall(b"SSH-2.0-other\r\n")
        self.request.recv(1024)


def test_what_is_missing_is_said(monkeypatch, tmp_path, fused_bundle):
    monkeypatch.setattr(local_server, "_wheel", lambda: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps nvidia-pytriton"):
        LocalServer(tmp_path)
    monkeypatch.undo()
    wheel = tmp_path / "wheel"
    shutil.copytree(fused_bundle, wheel)
    monkeypatch.setattr(local_server, "_wheel", lambda: wheel)
    assert "no Python backend for Python" in local_server.missing()


@pytest.mark.slow
def test_the_load_test_reports_all_ways(fused_bundle, tmp_path):
    report = tmp_path / "load.json"
    sizes = ("--cameras=2", "--samples=1", "--horizon=2", "--rounds=1", "--seconds=0.2", "--backend=cpu")
    command = [sys.executable, "benchmarks/triton_load.py", f"--model={fused_bundle}", f"--json={report}", *sizes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"server, .* has \d+\.\d\d times the rate of processes: goal 1\.5 (met|MISSED)", done.stdout)
    content = json.loads(report.read_text())
    assert (content["cameras"], content["samples"], content["horizon"]) == (2, 1, 2)
    assert set(content["ways"]) == {"server, shared memory", "server, gRPC", "processes"}
    assert all(len(row["per_second"]) == 1 and row["per_second"][0] > 0 < row["cpu_ms"][0] for row in content["ways"].values())
    assert not list(Path("/dev/shm").glob("svg_load_*"))


def test_forecasts_without_a_state_are_batched_by_their_configuration(tiny_checkpoint, tmp_path_factory, tmp_path):
    """The real server reads config.pbtxt and makes the batches; a stand-in runs the graph."""
    from tritonclient.grpc import InferInput

    bundle = server_bundle(tiny_checkpoint, tmp_path_factory)
    choice = ServingChoice(cameras=8, samples=SAMPLES, horizon=SERVER_HORIZON)
    _, model, _ = write_repositories(Bundle.open(bundle), MODEL, tmp_path, choice)
    (tmp_path / "backends" / "onnxruntime").mkdir(parents=True)
    stand_in = Path(__file__).with_name("triton_onnx_backend.py")
    shutil.copy(stand_in, tmp_path / "backends" / "onnxruntime" / "model.py")
    rng = np.random.default_rng(0)
    shapes = {
        "frames": (1, N_PAST, 1, 64, 64),
        "context_eps": (1, N_PAST - 1, SAMPLES, 4),
        "eps": (1, SERVER_HORIZON, SAMPLES, 4),
    }
    answers: SimpleQueue = SimpleQueue()
    with (
        LocalServer(model.parent, tmp_path / "log", exit_timeout_s=1, more_backends=tmp_path / "backends") as server,
        InferenceServerClient(server.grpc) as client,
        Forecaster.open(bundle, backend="cpu", threads=1, samples=SAMPLES, horizon=SERVER_HORIZON) as forecaster,
    ):
        requests = [{name: rng.random(shape, np.float32) for name, shape in shapes.items()} for _ in range(16)]
        for number, given in enumerate(requests):
            inputs = []
            for name, values in given.items():
                inputs.append(InferInput(name, values.shape, "FP32"))
                inputs[-1].set_data_from_numpy(values)
            answered = partial(lambda number, result, error: answers.put((number, result, error)), number)
            client.async_infer(model.name, inputs, answered)
        for _ in requests:
            number, result, error = answers.get(timeout=60)
            assert error is None
            given = {name: values[0] for name, values in requests[number].items()}
            forecaster.reset()
            for frame in given["frames"]:
                seen = forecaster.observe(np.ascontiguousarray(frame.transpose(1, 2, 0)))
            futures = forecaster.forecast(noise=given["eps"], context_noise=given["context_eps"])
            np.testing.assert_allclose(result.as_numpy("futures")[0], futures.transpose(0, 1, 4, 2, 3), atol=1e-5)
            np.testing.assert_allclose(result.as_numpy("surprise"), [[seen.surprise]], rtol=1e-4)
        assert server.metric("nv_inference_exec_count") < len(requests)
