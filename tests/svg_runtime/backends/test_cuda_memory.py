"""Device, buffers and graphs on a GPU made of host memory, whose work is done late; and the real library without a GPU."""

from __future__ import annotations

import gc
import inspect
import threading

import numpy as np
import pytest

from svg_common.errors import ExitCode
from svg_runtime.backends.nvidia import device as device_module
from svg_runtime.backends.nvidia.arrays import DeviceArrays, check_unaliased
from svg_runtime.backends.nvidia.device import CudaDevice
from svg_runtime.errors import BackendError, BackendMissingError
from tests.svg_runtime.backends.numpy_cuda import NumpyCuda, array_at, cudaError_t
from tests.svg_runtime.bundle_helpers import draw

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install 'svg-edge[gpu]'")


@pytest.fixture
def cuda(monkeypatch) -> NumpyCuda:
    made = NumpyCuda(gpus=2)
    monkeypatch.setattr(device_module, "load_runtime", lambda: made)
    return made


class Arrays(DeviceArrays):
    def __init__(self) -> None:
        self._device = CudaDevice("cuda", "gpu", None)


@pytest.fixture
def arrays(cuda) -> Arrays:
    return Arrays()


def test_buffers_are_zeroed_and_aligned(arrays):
    buffer = arrays.allocate((2, 3), "float16")
    series = arrays.allocate_steps(3, (5, 7), "float32")
    assert (buffer.shape, buffer.dtype) == ((2, 3), np.float16)
    assert not arrays.read(buffer).any()
    assert not arrays.read(series.whole).any()
    assert series.whole.shape == (3, 5, 7)
    assert [part.address % 256 for part in series.steps] == [0, 0, 0]


def test_values_survive_a_round_trip_to_the_device(arrays):
    buffer, series = arrays.allocate((4, 2), "float16"), arrays.allocate_steps(3, (5, 7), "float32")
    arrays.write(buffer, np.array([[1.5, 2.5]], np.float32))
    np.testing.assert_array_equal(arrays.read(buffer), [[1.5, 2.5]] * 4)
    values = draw(0, 3, 5, 7)
    arrays.write(series.whole, values)
    np.testing.assert_array_equal(arrays.read(series.whole), values)
    for part, expected in zip(series.steps, values, strict=True):
        np.testing.assert_array_equal(arrays.read(part), expected)
    arrays.write(series.steps[1], 7.0)
    values[1] = 7.0
    np.testing.assert_array_equal(arrays.read(series.whole), values)


def test_a_second_write_waits_for_the_first_copy(arrays, cuda):
    """Both copies are still to come when the second value is written: without a wait the first target would get it, too."""
    source, kept = arrays.allocate((4,), "float32"), arrays.allocate((4,), "float32")
    arrays.write(source, 1.0)
    arrays.copy(source, kept)
    assert cuda.log.count("cudaStreamSynchronize") == 0
    arrays.write(source, 2.0)
    assert cuda.log.count("cudaStreamSynchronize") == 1
    assert (arrays.read(kept)[0], arrays.read(source)[0]) == (1.0, 2.0)
    waits = cuda.log.count("cudaStreamSynchronize")
    arrays.write(source, 3.0)
    arrays.write(kept, 4.0)
    assert cuda.log.count("cudaStreamSynchronize") == waits  # the reads have waited already
    assert (arrays.read(source)[0], arrays.read(kept)[0]) == (3.0, 4.0)


def test_step_buffers_are_copied_at_once(arrays, cuda):
    series = arrays.allocate_steps(10, (3,), "float32")
    cuda.log.clear()
    arrays.write(series.whole, draw(0, 10, 3))
    arrays.read(series.whole)
    assert cuda.log == ["cudaMemcpyAsync", "cudaMemcpyAsync", "cudaStreamSynchronize"]


def test_step_buffers_may_be_empty(arrays):
    series = arrays.allocate_steps(0, (3, 2), "float32")
    assert series.steps == ()
    assert arrays.read(series.whole).shape == (0, 3, 2)


def test_memory_is_freed_with_its_last_buffer(arrays, cuda):
    before = cuda.left
    series = arrays.allocate_steps(2, (3,), "float32")
    arrays.write(series.steps[0], 1.0)
    part = series.steps[1]
    del series
    gc.collect()
    assert cuda.left[0] == before[0] + 1
    assert not arrays.read(part).any()
    del part
    gc.collect()
    assert cuda.left == before


def test_close_frees_everything_and_later_calls_are_refused(arrays, cuda):
    buffer = arrays.allocate((4,), "float32")
    arrays.write(buffer, 1.0)
    values = arrays.read(buffer)
    address = buffer.address
    graph = arrays._device.capture(lambda: arrays._device.copy(address, address + 8, 4))
    arrays._device.close()
    arrays._device.close()
    assert cuda.left == (0, 1, 0, 0)
    assert values.tolist() == [1.0] * 4  # another thread may be reading them
    arrays._device.drop_graph(graph)
    with pytest.raises(BackendError, match="closed"):
        arrays.write(buffer, 2.0)
    with pytest.raises(BackendError, match="closed"):
        arrays.read(buffer)
    del buffer
    gc.collect()
    del values
    gc.collect()
    assert cuda.left == (0, 0, 0, 0)


def test_close_waits_for_what_another_thread_does(arrays, cuda, monkeypatch):
    buffer = arrays.allocate((4,), "float32")
    closing = threading.Thread(target=arrays._device.close)
    copy = cuda.cudaMemcpyAsync

    def closed_meanwhile(*arguments):
        closing.start()
        closing.join(0.1)
        return copy(*arguments)

    monkeypatch.setattr(cuda, "cudaMemcpyAsync", closed_meanwhile)
    arrays.write(buffer, 1.0)
    closing.join()
    with pytest.raises(BackendError, match="closed"):
        arrays.read(buffer)


def test_close_frees_what_another_thread_has_not_freed_yet(arrays, cuda, monkeypatch):
    buffers = []
    free = cuda.cudaFree

    def freed_meanwhile(address):
        buffers.clear()
        return free(address)

    monkeypatch.setattr(cuda, "cudaFree", freed_meanwhile)
    buffers += [arrays.allocate((4,), "float32") for _ in range(3)]
    arrays._device.close()
    assert cuda.left == (0, 0, 0, 0)


def test_a_captured_graph_runs_at_launch_on_the_values_at_that_time(arrays):
    first, second, third = (arrays.allocate((4,), "float32") for _ in range(3))

    def work() -> None:
        arrays.copy(first, second)
        arrays.copy(second, third)

    graph = arrays._device.capture(work)
    assert not arrays.read(third).any()
    for value in (1.0, 2.0):
        arrays.write(first, value)
        arrays._device.launch(graph)
        assert arrays.read(third)[0] == value
    arrays._device.drop_graph(graph)
    arrays._device.drop_graph(graph)


def test_memory_released_during_a_capture_is_freed_afterwards(arrays, cuda):
    kept = [arrays.allocate((4,), "float32")]
    before = cuda.left[0]

    def work() -> None:
        kept.clear()
        gc.collect()
        assert cuda.left[0] == before  # freeing would spoil the capture

    arrays._device.capture(work)
    assert cuda.left[0] == before - 1


def test_the_stream_works_after_a_failed_capture(arrays, cuda):
    def work() -> None:
        raise BackendError("no")

    with pytest.raises(BackendError, match="no"):
        arrays._device.capture(work)
    cuda.fail["capture"] = cudaError_t.cudaErrorStreamCaptureUnsupported
    with pytest.raises(BackendError, match="StreamCaptureUnsupported"):
        arrays._device.capture(lambda: None)
    assert not cuda.capturing
    buffer = arrays.allocate((1,), "float32")
    arrays.write(buffer, 3.0)
    assert arrays.read(buffer)[0] == 3.0


def test_out_of_memory_is_a_memory_error_and_other_faults_name_cuda(arrays, cuda):
    with pytest.raises(MemoryError, match="device"):
        arrays.allocate((1 << 40,), "float32")
    buffer = arrays.allocate((1,), "float32")
    cuda.fail["cudaMemcpyAsync"] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(BackendError, match=r"CUDA failed while copying to the device: cudaErrorIllegalAddress"):
        arrays.write(buffer, 1.0)


def test_aliased_outputs_are_an_assertion_error(arrays):
    series = arrays.allocate_steps(2, (3,), "float32")
    one, two = series.steps
    check_unaliased("step", {"a": one}, {"b": two})
    for inputs, outputs in (({"a": one}, {"b": one}), ({"a": two}, {"b": series.whole}), ({}, {"b": one, "c": one})):
        with pytest.raises(AssertionError, match="step: b aliases"):
            check_unaliased("step", inputs, outputs)


@pytest.mark.parametrize(("requested", "index"), [(None, 0), ("auto", 0), ("cuda", 0), ("cuda:1", 1), ("1", 1)])
def test_device_names_select_the_gpu(cuda, requested, index):
    device = CudaDevice("cuda", "gpu", requested)
    assert device.gpu.index == index
    assert (device.gpu.name, device.gpu.compute_capability) == ("NumPy GPU", "sm86")


@pytest.mark.parametrize(("requested", "message"), [("cuda:2", "cuda:0, cuda:1"), ("gpu", "no device 'gpu'"), ("-1", "'-1'")])
def test_a_missing_device_is_refused(cuda, requested, message):
    with pytest.raises(BackendMissingError, match=message) as caught:
        CudaDevice("cuda", "gpu", requested)
    assert caught.value.exit_code == ExitCode.BACKEND_MISSING


def test_no_driver_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(device_module, "load_runtime", lambda: NumpyCuda(gpus=0))
    with pytest.raises(BackendMissingError, match=r"cuda-bindings<13.*--backend cpu"):
        CudaDevice("cuda", "gpu", None)


def test_bindings_that_raise_without_a_driver_are_refused_as_well(monkeypatch):
    """As those of 12.8 do, where later ones answer with an error."""

    class Raising(NumpyCuda):
        def cudaGetDeviceCount(self):  # noqa: N802
            raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(device_module, "load_runtime", Raising)
    with pytest.raises(BackendMissingError, match=r"no NVIDIA GPU: Failed to dlopen libcuda.so.1\n.*--backend cpu"):
        CudaDevice("cuda", "gpu", None)


def test_a_buffer_has_the_address_and_memory_of_the_device(arrays, cuda):
    buffer = arrays.allocate((2, 2), "float32")
    arrays.write(buffer, [[1, 2], [3, 4]])
    arrays._device.wait()
    np.testing.assert_array_equal(array_at(cuda, buffer.address, (2, 2), np.float32), [[1, 2], [3, 4]])


def test_the_numpy_gpu_has_the_real_signatures():
    """Cython gives no signatures, but writes them as the first line of each docstring."""
    from cuda.bindings import runtime

    for name, method in inspect.getmembers(NumpyCuda, inspect.isfunction):
        if not name.startswith("cuda"):
            continue
        line = getattr(runtime, name).__doc__.strip().splitlines()[0]
        real = [part.split(":")[0].split()[-1] for part in line[line.index("(") + 1 : -1].split(",") if part]
        mine = list(inspect.signature(method).parameters)[1:]
        assert len(mine) == len(real), f"{line} != {mine}"
    for enum in (NumpyCuda.cudaError_t, NumpyCuda.cudaMemcpyKind, NumpyCuda.cudaStreamCaptureMode):
        real = getattr(runtime, enum.__name__)
        assert {member.name: member.value for member in enum} == {
            member.name: getattr(real, member.name).value for member in enum
        }
    assert NumpyCuda.cudaStreamNonBlocking == runtime.cudaStreamNonBlocking


def test_the_real_library_accepts_arguments_of_these_types():
    """Without a driver each function answers that there is none; but what it cannot convert is a TypeError before that."""
    from cuda.bindings import runtime

    no_driver = runtime.cudaError_t.cudaErrorInsufficientDriver
    if runtime.cudaGetDeviceCount()[0] != no_driver:
        pytest.skip("there is a driver here, and these addresses are made up")
    stream, graph, made = runtime.cudaStream_t(0), runtime.cudaGraph_t(0), runtime.cudaGraphExec_t(0)
    assert int(stream) == 0
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    kinds = runtime.cudaMemcpyKind
    answers = [
        runtime.cudaSetDevice(0), runtime.cudaGetDeviceProperties(0), runtime.cudaMalloc(512), runtime.cudaMallocHost(512),
        runtime.cudaFree(512), runtime.cudaFreeHost(512), runtime.cudaMemsetAsync(512, 0, 512, stream),
        *(runtime.cudaMemcpyAsync(512, 1024, 512, kind, stream) for kind in
          (kinds.cudaMemcpyHostToDevice, kinds.cudaMemcpyDeviceToHost, kinds.cudaMemcpyDeviceToDevice)),
        runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking), runtime.cudaStreamSynchronize(stream),
        runtime.cudaStreamBeginCapture(stream, mode), runtime.cudaStreamEndCapture(stream),
        runtime.cudaGraphInstantiate(graph, 0), runtime.cudaGraphDestroy(graph), runtime.cudaGraphLaunch(made, stream),
        runtime.cudaGraphExecDestroy(made), runtime.cudaStreamDestroy(stream),
    ]  # fmt: skip
    assert {answer[0] for answer in answers} == {no_driver}


def test_without_a_gpu_the_message_of_the_real_library_is_shown():
    from cuda.bindings import runtime

    if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendMissingError, match=r"finds no NVIDIA GPU: .*driver"):
        CudaDevice("cuda", "gpu", None)
