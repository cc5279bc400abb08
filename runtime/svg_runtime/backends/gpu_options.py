"""Options for the backends on NVIDIA GPUs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from svg_common.arguments import check_flag
from svg_runtime.errors import EngineNotBuiltError, UsageError


@dataclass(frozen=True)
class GpuOptions:
    """The user's options for the backends `cuda`, `ort-tensorrt`, `tensorrt` and `tensorrt-rtx`.

    Attributes:
        cuda_graph: replay launches as CUDA graphs; None lets the backend choose.
        cpu_fallback: whether ONNX Runtime may run nodes on the CPU that it cannot run on the GPU. Otherwise they are an error.
        cache_dir: folder of cached engines; None: $SVG_EDGE_CACHE, else the user's cache folder.
        workspace_gib: GPU memory for temporary results while building; None lets the library choose.
        build_engines: whether engines that are neither in the bundle nor in the cache are built, for minutes; else they are an
            error.

    Raises:
        UsageError: an invalid value.
    """

    cuda_graph: bool | None = None
    cpu_fallback: bool = False
    cache_dir: str | None = None
    workspace_gib: float | None = None
    build_engines: bool = True

    def __post_init__(self) -> None:
        check_flag("cuda_graph", self.cuda_graph, or_none=True)
        check_flag("cpu_fallback", self.cpu_fallback)
        check_flag("build_engines", self.build_engines)
        if not isinstance(self.cache_dir, (str, os.PathLike, type(None))):
            raise UsageError(f"cache_dir is {self.cache_dir!r}\n  expected a folder, or None")
        size = self.workspace_gib
        if size is not None and (isinstance(size, bool) or not isinstance(size, (int, float)) or not 0 < size < float("inf")):
            raise UsageError(f"workspace_gib is {size!r}\n  expected a number above 0, or None")

    @property
    def given(self) -> list[str]:
        """The options that differ from their defaults, as command-line flags.

        `build_engines` has none. It holds with every backend, since the others build no engines.
        """
        flags = {
            "--cuda-graph": self.cuda_graph is True,
            "--no-cuda-graph": self.cuda_graph is False,
            "--cpu-fallback": self.cpu_fallback,
            "--cache-dir": self.cache_dir is not None,
            "--workspace": self.workspace_gib is not None,
        }
        return [flag for flag, is_given in flags.items() if is_given]


def not_built(backend: str, graph_files: Sequence[str]) -> EngineNotBuiltError:
    """The error for engines that are missing, where they are not to be built."""
    return EngineNotBuiltError(
        f"engine not built; svg-live --calibrate full builds it\n  missing for {backend}: {', '.join(graph_files)}"
    )


def no_effect(flags: Sequence[str], backend: str, reason: str = "", advice: str = "") -> UsageError:
    """The error for options that a backend would ignore.

    Args:
        flags: the options, as flags of the commands.
        backend: name of the backend.
        reason: continues the first line.
        advice: continues "remove it".
    """
    verb, pronoun = ("has", "it") if len(flags) == 1 else ("have", "them")
    return UsageError(f"{', '.join(flags)} {verb} no effect with the {backend} backend{reason}\n  remove {pronoun}{advice}")
