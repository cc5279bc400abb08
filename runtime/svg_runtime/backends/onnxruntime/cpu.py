"""The backend `cpu`: ONNX Runtime on the CPU. Buffers are NumPy arrays that the sessions read and write in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

from svg_runtime.backends.base import BoundGraph, Buffer
from svg_runtime.backends.computed import describe
from svg_runtime.backends.host_arrays import BoundGraphs, HostArrays, unaliased
from svg_runtime.backends.onnxruntime.session import (
    BoundSession,
    load_onnxruntime,
    load_session,
    refuse_full_memory,
    session_options,
)
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendError, BackendMissingError, BundleError
from svg_runtime.machine.hardware import usable_cores


class CpuBackend(HostArrays):
    """ONNX Runtime's CPU execution provider.

    Args:
        bundle: the opened bundle.
        precision: the variant to load.
        device: None, auto or cpu.
        threads: CPU threads; None means one per usable core.
        lanes: how many graphs can run at the same time, if there are so many threads; they share them equally.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        BackendMissingError: onnxruntime is installed but does not load, `device` is not a CPU, or `precision` is bf16.
        BundleError: a graph cannot be loaded.
        MemoryError: not enough memory.
    """

    name = "cpu"
    prefers_fused = True

    def __init__(
        self,
        bundle: Bundle,
        precision: Precision,
        device: str | None = None,
        threads: int | None = None,
        lanes: int = 1,
    ) -> None:
        if device not in (None, "auto", "cpu"):
            raise BackendMissingError(f"the cpu backend has no device '{device}'\n  expected cpu")
        if precision == "bf16":
            raise BackendMissingError(
                "the cpu backend does not compute in bf16\n  expected fp32 or fp16, or --backend openvino"
            )
        onnxruntime = load_onnxruntime("cpu", "cpu")
        self.precision: Precision = precision
        if lanes > 1:
            all_threads = threads or usable_cores()
            self.lanes = min(lanes, all_threads)
            threads = all_threads // self.lanes
        self._sessions: dict[str, Any] = {}
        self._bound = BoundGraphs()
        self.computed_in: dict[str, Counter[str]] = {}
        for graph_name, content in bundle.graphs(precision).items():
            options = _session_options(onnxruntime, threads)
            try:
                make = partial(onnxruntime.InferenceSession, content, providers=["CPUExecutionProvider"])
                session, layers = load_session(make, options, content, precision)
            except Exception as error:  # ONNX Runtime raises its own unrelated classes
                refuse_full_memory(error)
                raise BundleError(
                    f"ONNX Runtime cannot load {precision}/{graph_name}.onnx of '{bundle.path}': {error}"
                ) from error
            self._sessions[graph_name] = session
            if layers is not None:
                self.computed_in[graph_name] = layers
        computed = describe(self.computed_in, unknown="a precision that cannot be read without a temporary folder")
        self.description = f"cpu (ONNX Runtime {onnxruntime.__version__}), {precision} graphs {computed}"

    def bind(self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> BoundGraph:
        """Bind inputs and outputs by address: nothing is copied.

        Raises:
            BackendError: the backend is closed.
        """
        session = self._sessions.get(graph)
        if session is None:
            raise BackendError(f"the cpu backend is closed and cannot run {graph}\n  open another one")
        binding, keep = session.io_binding(), []
        for name, array, is_output in unaliased(graph, inputs, outputs):
            bind = binding.bind_output if is_output else binding.bind_input
            bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            keep.append(array)
        bound = BoundSession(graph, session, binding, keep)
        self._bound.add(bound)
        return bound

    def close(self) -> None:
        """Free the sessions; bound graphs cannot run any more. One that another thread is running ends its run first."""
        self._sessions.clear()
        self._bound.release_all()


def _session_options(onnxruntime: Any, threads: int | None) -> Any:
    options = session_options(onnxruntime, threads or usable_cores())
    # Measured, see docs/results.md: spinning threads need not be woken up at every layer. Each graph is a session with its
    # own threads, so they stop spinning when a run ends: otherwise the next graph would have to share the cores with them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options
