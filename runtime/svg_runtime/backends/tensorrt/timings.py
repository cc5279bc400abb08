"""TensorRT's timing cache: kernels that were timed once on a GPU need not be timed again for the next engine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from svg_runtime.backends.nvidia.folders import CachedBlob
from svg_runtime.backends.tensorrt.nvidia_library import Library

_LOG = logging.getLogger(__name__)


class Timings:
    """The timings before and after one build.

    Attributes:
        content: serialized timing cache; empty at first.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content

    def attach(self, library: Library, config: Any) -> None:
        """Let a build use the timings and add to them. Unusable timings are ignored with a message."""
        with library.collect_messages() as messages:
            cache = config.create_timing_cache(self.content)
            accepted = cache is not None and config.set_timing_cache(cache, False)
        if self.content and (messages or not accepted):
            title = f"{library.name} {library.version}"
            _LOG.info("%s cannot use the timings of earlier builds: measuring again", title)
        if not accepted:
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def collect(self, config: Any) -> None:
        """Read the timings back after the build."""
        cache = config.get_timing_cache()
        if cache is not None:
            self.content = bytes(cache.serialize())


@contextmanager
def cached_timings(file: CachedBlob) -> Iterator[Timings]:
    """Read timings from a file, and write them back unless the build fails.

    Another process that builds on the same GPU waits meanwhile, so that no timing is lost and the two do not disturb each
    other's measurements.
    """
    with file.locked("another process is building an engine on this GPU"):
        timings = Timings(file.load() or b"")
        yield timings
        file.save(timings.content)
