"""What all ONNX Runtime backends share: loading the library, session options, graphs bound to buffers."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from svg_common.command import require_modules
from svg_common.signals import defer_interrupts
from svg_runtime.bundle.manifest import Precision
from svg_runtime.errors import BackendError, BackendMissingError


def load_onnxruntime(backend: str, extra: str) -> Any:
    """Import the module.

    Args:
        backend: name of the backend, for messages.
        extra: pip extra that installs it.

    Raises:
        MissingExtraError: it is not installed.
        BackendMissingError: it is installed but does not load.
    """
    require_modules(f"the {backend} backend", extra, "onnxruntime")
    try:
        with defer_interrupts():
            import onnxruntime
    except ImportError as error:  # wheel for another CUDA, Python or C library
        raise BackendMissingError(f"the {backend} backend cannot load onnxruntime: {error}") from error
    return onnxruntime


def session_options(onnxruntime: Any, threads: int) -> Any:
    """Return session options for any device: quiet, with `threads` CPU threads."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: warnings are about its own graph optimisations
    options.intra_op_num_threads = threads
    return options


@contextlib.contextmanager
def loaded_graph(options: Any, content: bytes, precision: Precision) -> Iterator[Callable[[], bytes]]:
    """Give access to the optimized graph of a session that is created with `options` inside this context.

    Where ONNX Runtime has no float16 kernel, it converts to float32 and back around the node. Float32 graphs stay as they are.

    Args:
        options: session options.
        content: the ONNX file.
        precision: of the graph.

    Yields:
        A function that returns the graph that is really run, once the session exists.
    """
    if precision == "fp32":
        yield lambda: content
        return
    with tempfile.TemporaryDirectory(prefix="svg-graph-") as folder:
        file = Path(folder) / "loaded.onnx"
        options.optimized_model_filepath = str(file)
        yield file.read_bytes


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
        """
        if self.session is None:
            raise BackendError("the backend is closed\n  open another one")
        try:
            self.session.run_with_iobinding(self.binding, self.options)
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            raise BackendError(f"ONNX Runtime failed while running {self.graph_name}: {error}{self.hint}") from error

    def release(self) -> None:
        """Release the session: it cannot run again."""
        self.session = self.binding = None
        self._keep.clear()
