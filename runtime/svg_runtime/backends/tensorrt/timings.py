"""What TensorRT measured while it built: kernels that were timed once on a GPU need not be timed again for the next engine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from svg_runtime.backends.tensorrt.folders import CachedBlob
from svg_runtime.backends.tensorrt.nvidia_library import Library

_LOG = logging.getLogger(__name__)


class Timings:
    """The timings that one build starts from, and those that it leaves.

    Attributes:
        content: as the library serializes them; empty at first.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content

    def attach(self, library: Library, config: Any) -> None:
        """Let a build use them, and add to them. What the library does not take is ignored with a message."""
        with library.collect_messages() as messages:
            cache = config.create_timing_cache(self.content)
            taken = cache is not None and config.set_timing_cache(cache, False)
        if self.content and (messages or not taken):
            title = f"{library.name} {library.version}"
            _LOG.info("%s cannot use the timings of earlier builds: measuring again", title)
        if not taken:
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def collect(self, config: Any) -> None:
        """After the build."""
        cache = config.get_timing_cache()
        if cache is not None:
            self.content = bytes(cache.serialize())


@contextmanager
def kept_timings(file: CachedBlob) -> Iterator[Timings]:
    """Timings from a file, which are written to it again unless the build fails.

    Another process that builds on the same GPU waits meanwhile, so that no timing is lost, and so that the two do not disturb
    what they measure.
    """
    with file.locked("another process is building an engine on this GPU"):
        timings = Timings(file.load() or b"")
        yield timings
        file.save(timings.content)
