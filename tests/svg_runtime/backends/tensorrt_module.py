"""Stands for the module `tensorrt`: TensorRT-RTX's own parser and builder, with the differences of TensorRT.

It builds for the present GPU, which is a stand-in too, so it gets no compute capabilities, and it keeps timings.
"""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from svg_runtime.backends.tensorrt.nvidia_library import Library
from tests.svg_export.engine_helpers import rtx

TIMED = b"timed "


class TimingCache:
    """ITimingCache: `content` grows with every build."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class Config:
    """IBuilderConfig, around one of TensorRT-RTX."""

    def __init__(self, real: Any, log: list[bytes], accepts: bool) -> None:
        self.__dict__.update(real=real, log=log, accepts=accepts, cache=None)

    def __getattr__(self, name: str) -> Any:
        assert name not in ("set_compute_capability", "num_compute_capabilities")
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        assert name != "num_compute_capabilities"
        setattr(self.real, name, value)

    def create_timing_cache(self, content: bytes) -> TimingCache:
        return TimingCache(content)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.content and not self.accepts:
            return False
        self.log.append(cache.content)
        self.__dict__["cache"] = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self.cache


class Tensorrt(ModuleType):
    """Stands for `tensorrt`.

    Attributes:
        started_from: the timings that each build was given.
        accepts: whether it takes timings of earlier builds.
        complains: an error that it reports while it builds, and goes on.
        warns: a warning of its parser.
    """

    def __init__(self, version: str = "10.3.0") -> None:
        super().__init__("tensorrt")
        real = rtx().module
        self.__spec__, self.__version__ = ModuleSpec("tensorrt", None), version
        self.started_from: list[bytes] = []
        self.accepts, self.complains, self.warns = True, "", ""
        outer = self

        class Builder(real.Builder):
            def __init__(self, logger: Any) -> None:
                real.Builder.__init__(self, logger)
                self.message_sink = logger

            def create_builder_config(self) -> Config:
                config = real.Builder.create_builder_config(self)
                config.num_compute_capabilities = 1
                config.set_compute_capability(real.ComputeCapability.SM86, 0)
                return Config(config, outer.started_from, outer.accepts)

            def build_serialized_network(self, network: Any, config: Config) -> Any:
                if outer.complains:
                    self.message_sink.log(real.ILogger.Severity.ERROR, outer.complains)
                engine_bytes = real.Builder.build_serialized_network(self, network, config.real)
                config.cache.content += TIMED
                return engine_bytes

        class OnnxParser(real.OnnxParser):
            def __init__(self, network: Any, logger: Any) -> None:
                real.OnnxParser.__init__(self, network, logger)
                self.message_sink = logger

            def parse(self, content: bytes) -> bool:
                if outer.warns:
                    self.message_sink.log(real.ILogger.Severity.WARNING, outer.warns)
                return bool(real.OnnxParser.parse(self, content))

        self.OnnxParser = OnnxParser
        # TensorRT knows no REQUIRE_USER_ALLOCATION.
        flags = {name: flag for name, flag in real.BuilderFlag.__members__.items() if name != "REQUIRE_USER_ALLOCATION"}
        self.Builder, self.BuilderFlag = Builder, type("BuilderFlag", (), flags)

    def __getattr__(self, name: str) -> Any:
        return getattr(rtx().module, name)


def tensorrt(**state: Any) -> Library:
    """The library, with the one logger that a process has."""
    module = Tensorrt()
    for name, value in state.items():
        setattr(module, name, value)
    return Library("tensorrt", module, rtx().logger)
