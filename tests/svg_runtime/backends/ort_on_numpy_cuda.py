"""ONNX Runtime on the NumPy GPU: its real engine in place of the CUDA and TensorRT providers.

The CPU provider computes in the memory of the NumPy GPU, late and in order on the provider's stream. It imitates what ONNX
Runtime does on a GPU: nodes that compute shapes run on the CPU, inputs of such a session are copied when they are bound, and
with CUDA graphs a bound graph runs three times at first, and later with the addresses of the capture.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from tests.svg_runtime.backends.numpy_cuda import NumpyCuda, array_at

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
ENGINE = b"an engine of TensorRT"
TIMINGS = b"what kernels take"
STRICT = "session.disable_cpu_ep_fallback"
# What the real parser of options takes, seen in 1.31: TensorRT's switches are words, CUDA's may be digits as well.
_WORD, _SWITCH, _NUMBER, _TEXT = "True|False", "True|False|true|false|1|0", "[0-9]+", ".+"
_SHARED = {"device_id": _NUMBER, "user_compute_stream": _NUMBER}
_OPTIONS = {
    CUDA: {
        **_SHARED,
        "use_tf32": _SWITCH,
        "enable_cuda_graph": _SWITCH,
        "cudnn_conv_algo_search": "EXHAUSTIVE|HEURISTIC|DEFAULT",
    },
    TENSORRT: {
        **_SHARED,
        **dict.fromkeys(("trt_fp16_enable", "trt_engine_cache_enable", "trt_timing_cache_enable"), _WORD),
        **dict.fromkeys(("trt_engine_cache_path", "trt_timing_cache_path"), _TEXT),
        **dict.fromkeys((f"trt_profile_{which}_shapes" for which in ("min", "opt", "max")), ".*"),
        "trt_max_workspace_size": _NUMBER,
    },
}


class OrtOnNumpyCuda:
    """Stands for the module `onnxruntime`.

    Args:
        cuda: the GPU.

    Attributes:
        sessions: options of every session that was opened: provider -> options.
        broken: providers that do not start; others replace them.
        on_cpu: whether a node runs on the CPU.
        reports: whether this release reports where nodes run.
        fail: error of opening a session.
        graphs_refused: whether CUDA graphs are refused.
        captured: number of CUDA graphs.
        released: their numbers, once they are freed.
        waited: number of runs that the host waited for.
        built: folders in whose cache an engine of TensorRT was missing, "" without a cache.
        measured: number of builds that had no timings of earlier ones.
        batches: of every session: name of its graph, and the first sizes of the inputs that it ran.
    """

    __version__ = "1.30.0"
    SessionOptions = onnxruntime.SessionOptions
    RunOptions = onnxruntime.RunOptions

    def __init__(self, cuda: NumpyCuda) -> None:
        self.cuda = cuda
        self.available = [TENSORRT, CUDA, CPU]
        self.sessions: list[dict[str, dict[str, str]]] = []
        self.broken: set[str] = set()
        self.on_cpu: Callable[[Any], bool] = lambda node: node.op_type == "Shape"
        self.reports = True
        self.fail: Exception | None = None
        self.graphs_refused = False
        self.captured = 0
        self.released: list[int] = []
        self.waited = 0
        self.built: list[str] = []
        self.measured = 0
        self.batches: list[tuple[str, set[int]]] = []

    def get_available_providers(self) -> list[str]:
        return self.available

    def set_default_logger_severity(self, severity: int) -> None:
        assert severity == 3

    def preload_dlls(self) -> None:
        print("Failed to load libcublasLt.so.13")

    def InferenceSession(self, content, options, providers, enable_fallback):  # noqa: N802
        assert not enable_fallback
        if self.fail is not None:
            raise self.fail
        self.sessions.append(dict(providers))
        for name, given in providers:
            _check_options(name, given)
        if TENSORRT in dict(providers) and TENSORRT not in self.broken:
            self._load_engine(dict(providers)[TENSORRT])
        kind = Session if self.reports else SilentSession
        return kind(self, content, options, providers)

    def _load_engine(self, options: dict[str, str]) -> None:
        """Write straight to the place, load whatever is there, and measure again unless there are timings."""
        if options.get("trt_engine_cache_enable") != "True":
            self.built.append("")
            return
        folder = Path(options["trt_engine_cache_path"])
        engine = folder / "TensorrtExecutionProvider_TRTKernel_graph_0_0_sm86.engine"
        profile = engine.with_suffix(".profile")
        timings = Path(options["trt_timing_cache_path"]) / "TensorrtExecutionProvider_cache_sm86.timing"
        shapes = options["trt_profile_max_shapes"].encode()
        if not engine.is_file() or not profile.is_file() or profile.read_bytes() != shapes:
            if timings.is_file() and timings.read_bytes() != TIMINGS:
                raise Exception("[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP could not create timing cache")
            self.measured += not timings.is_file()
            self.built.append(str(folder))
            engine.write_bytes(ENGINE)
            profile.write_bytes(shapes)
            timings.write_bytes(TIMINGS)
        if engine.read_bytes() != ENGINE:
            raise Exception(f"[ONNXRuntimeError] : 11 : EP_FAIL : could not deserialize engine from cache: {engine}")


class SilentSession:
    """A session that does not report where its nodes run, as before 1.24."""

    def __init__(self, ort: OrtOnNumpyCuda, content: bytes, options: Any, providers: list[tuple[str, dict[str, str]]]) -> None:
        self._ort, self._wanted = ort, [name for name, _ in providers if name not in ort.broken]
        strict = STRICT in _entries(options)
        if strict:
            options.add_session_config_entry(STRICT, "0")  # the real engine runs on the CPU
        self._real = onnxruntime.InferenceSession(content, options, providers=[CPU])
        self._placed = [(self._place(node), node) for part in self._real.get_provider_graph_assignment_info()
                        for node in part.get_nodes()]  # fmt: skip
        self.mixed = any(place == CPU for place, _ in self._placed)
        if strict and (self.mixed or not self._wanted):
            raise Exception(
                "[ONNXRuntimeError] : 1 : FAIL : This session contains graph nodes that are assigned to the default CPU EP"
            )
        given = dict(providers).get(CUDA, {})
        self.stream, self.captures = int(given["user_compute_stream"]), given["enable_cuda_graph"] == "1"
        if self.captures and (self.mixed or ort.graphs_refused):
            raise Exception("[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature")
        self._graphs: dict[int, list[Any]] = {}
        self.batches: set[int] = set()
        ort.batches.append((self._real.get_modelmeta().custom_metadata_map["svg_graph"], self.batches))

    def _place(self, node: Any) -> str:
        return CPU if not self._wanted or self._ort.on_cpu(node) else self._wanted[0]

    def get_providers(self) -> list[str]:
        return [*self._wanted, CPU]

    def io_binding(self) -> Binding:
        return Binding(self._ort.cuda, self._real.io_binding(), self.mixed)

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        asynchronous = _run_entry(options, "disable_synchronize_execution_providers") == "1"
        assert not (asynchronous and self.mixed)
        runs = 1
        if self.captures:
            number = int(_run_entry(options, "gpu_graph_id"))
            assert number > 0
            if number not in self._graphs:
                self._graphs[number], runs = [binding.real, binding.kept], 3
                self._ort.captured += 1
            real, kept = self._graphs[number]
        else:
            real, kept = binding.real, binding.kept

        def work(keep: list[Any] = kept) -> None:  # what the binding reads stays alive until it has run
            for address, nbytes in binding.memory:
                self._ort.cuda.view(address, nbytes)  # still allocated
            for _ in range(runs):
                self._real.run_with_iobinding(real)

        self._ort.cuda.enqueue("run", self.stream, work)
        self.batches |= binding.batches
        if not asynchronous:
            self._ort.waited += 1
            self._ort.cuda.cudaStreamSynchronize(self.stream)

    def release_captured_graph(self, number: int) -> None:
        if self._graphs.pop(number, None):
            self._ort.released.append(number)


class Session(SilentSession):
    def get_provider_graph_assignment_info(self) -> list[SimpleNamespace]:
        ordered = sorted(self._placed, key=lambda placed: placed[0])
        return [SimpleNamespace(ep_name=name, get_nodes=[node for _, node in part].copy)
                for name, part in itertools.groupby(ordered, key=lambda placed: placed[0])]  # fmt: skip


class Binding:
    def __init__(self, cuda: NumpyCuda, real: Any, mixed: bool) -> None:
        self._cuda, self.real, self._mixed = cuda, real, mixed
        self.memory: list[tuple[int, int]] = []
        self.kept: list[np.ndarray] = []
        self.batches: set[int] = set()

    def bind_input(self, name, device, index, dtype, shape, address) -> None:
        assert (device, index) == ("cuda", 0)
        source = array_at(self._cuda, address, shape, dtype)
        self.batches.add(shape[0])
        if self._mixed:  # read by a node on the CPU: copied when it is bound
            source = source.copy()
            self.kept.append(source)
        else:
            self.memory.append((address, source.nbytes))
        self.real.bind_input(name, "cpu", 0, dtype, shape, source.ctypes.data)

    def bind_output(self, name, device, index, dtype, shape, address) -> None:
        assert (device, index) == ("cuda", 0)
        self.memory.append((address, array_at(self._cuda, address, shape, dtype).nbytes))
        self.real.bind_output(name, "cpu", 0, dtype, shape, address)


def _check_options(provider: str, given: dict[str, str]) -> None:
    known = _OPTIONS[provider]
    for key, value in given.items():
        if key not in known:
            raise RuntimeError(f"Invalid TensorRT EP option: {key}")
        if re.fullmatch(known[key], value) is None:
            raise RuntimeError(f"[ERROR] [TensorRT] The value for the key '{key}' should be '{known[key]}'")


def _entries(options: Any) -> dict[str, str]:
    try:
        return {STRICT: options.get_session_config_entry(STRICT)}
    except Exception:  # it has no such entry
        return {}


def _run_entry(options: Any, key: str) -> str:
    try:
        return options.get_run_config_entry(key)
    except Exception:  # it has no such entry
        return ""
