"""What only the backends of NVIDIA GPUs understand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from svg_runtime.errors import UsageError


@dataclass(frozen=True)
class GpuOptions:
    """Choices of the user, for backends `cuda`, `ort-tensorrt`, `tensorrt` and `tensorrt-rtx`.

    Attributes:
        cuda_graph: replay what is launched instead of launching it again each time; None leaves it to the backend.
        cpu_fallback: whether ONNX Runtime may run on the processor what it does not run on the GPU. Otherwise that is an error.
        cache_dir: where engines are kept; None: $SVG_EDGE_CACHE, else the user's cache folder.
        workspace_gib: device memory that a builder may use for temporary results; None leaves it to the library.
    """

    cuda_graph: bool | None = None
    cpu_fallback: bool = False
    cache_dir: str | None = None
    workspace_gib: float | None = None

    @property
    def given(self) -> list[str]:
        """The options that were given, as flags of the commands."""
        flags = {
            "--cuda-graph": self.cuda_graph is True,
            "--no-cuda-graph": self.cuda_graph is False,
            "--cpu-fallback": self.cpu_fallback,
            "--cache-dir": self.cache_dir is not None,
            "--workspace": self.workspace_gib is not None,
        }
        return [flag for flag, given in flags.items() if given]


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
