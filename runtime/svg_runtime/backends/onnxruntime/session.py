"""What all ONNX Runtime backends share: loading the library, session options, graphs bound to buffers."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from svg_common.command import require_modules
from svg_common.errors import first_line
from svg_common.out_of_memory import is_out_of_memory
from svg_common.signals import defer_interrupts
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.onnx_header import count_weight_types
from svg_runtime.errors import BackendError, BackendMissingError

_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"


def import_onnxruntime() -> Any:
    """Import the module with its telemetry switched off. Nothing else may import it.

    From 1.29 on, importing it on Linux and macOS starts an uploader to Microsoft, and writes an identifier of the device and a
    database of events to the user's cache folder (onnxruntime #27379). Only the environment variable prevents that, if it is
    set before the import (#29843); the function only stops later events, and is what Windows has, where the system collects.

    Raises:
        ImportError: it does not load.
    """
    os.environ[_NO_TELEMETRY] = "1"
    with defer_interrupts():
        import onnxruntime
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def load_onnxruntime(backend: str, extra: str) -> Any:
    """Import the module for a backend, with its telemetry switched off.

    Args:
        backend: name of the backend, for messages.
        extra: pip extra that installs it.

    Raises:
        MissingExtraError: it is not installed.
        BackendMissingError: it is installed but does not load.
    """
    require_modules(f"the {backend} backend", extra, "onnxruntime")
    try:
        return import_onnxruntime()
    except ImportError as error:  # wheel for another CUDA, Python or C library
        raise BackendMissingError(f"the {backend} backend cannot load onnxruntime: {error}") from error


def session_options(onnxruntime: Any, threads: int) -> Any:
    """Return session options for any device: quiet, with `threads` CPU threads."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: warnings are about its own graph optimisations
    options.intra_op_num_threads = threads
    return options


def load_session(
    make: Callable[[Any], Any], options: Any, content: bytes, precision: Precision
) -> tuple[Any, Counter[str] | None]:
    """Create a session, and count the layers of the graph that it really runs by precision.

    Where ONNX Runtime has no float16 kernel, it converts to float32 and back around the node; it writes the graph that it runs
    to a file when asked. Float32 graphs stay as they are.

    Args:
        make: creates the session from options.
        options: session options.
        content: the ONNX file.
        precision: of the graph.

    Returns:
        The session, and its layers by precision; None if there is no folder for temporary files, or no space left in it.
    """
    if precision == "fp32":
        return make(options), count_weight_types(content)
    try:
        with tempfile.TemporaryDirectory(prefix="svg-graph-", ignore_cleanup_errors=True) as folder:
            file = Path(folder) / "loaded.onnx"
            file.write_bytes(content)  # its size, nearly: a full disk is noticed here
            options.optimized_model_filepath = str(file)
            session = make(options)
            return session, count_weight_types(file.read_bytes())
    except OSError:
        options.optimized_model_filepath = ""
        return make(options), None


def refuse_full_memory(error: Exception) -> None:
    """Raise a MemoryError where an error of ONNX Runtime says that memory ran out; it has no class for that."""
    if is_out_of_memory(error):
        raise MemoryError(first_line(error)) from error


class BoundSession:
    """A session with its IO binding, and the buffers whose addresses it contains."""

    def __init__(self, graph_name: str, session: Any, binding: Any, keep: list[Any]) -> None:
        self.graph_name = graph_name
        self.session = session
        self.binding = binding
        self.options: Any = None  # run options; None: ONNX Runtime's defaults
        self.hint = ""  # advice that is added to errors
        self._keep = keep

    def run(self) -> None:
        """Run the graph once.

        Raises:
            BackendError: ONNX Runtime failed, or the backend is closed.
            MemoryError: not enough memory of the device or the host.
        """
        # Another thread may release them: so the run holds all that it uses, and reads the session, which goes first, last.
        _buffers, binding, session = self._keep, self.binding, self.session
        if session is None:
            raise BackendError("the backend is closed\n  open another one")
        try:
            session.run_with_iobinding(binding, self.options)
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            refuse_full_memory(error)
            raise BackendError(f"ONNX Runtime failed while running {self.graph_name}: {error}{self.hint}") from error

    def release(self) -> None:
        """Release the session: it cannot run again. A run that has begun keeps it, and its buffers, until it ends."""
        self.session = None
        self.binding = None
        self._keep = []
