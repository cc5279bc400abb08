"""The engine options of `svg-export`: checked before the work of an export, and refused where they would have no effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svg_common.errors import UsageError
from svg_runtime.backends.tensorrt.build import BuildOptions, check_targets
from svg_runtime.backends.tensorrt.cache import EngineCache
from svg_runtime.backends.tensorrt.library import Library, load_library
from svg_runtime.errors import BackendMissingError, EngineError

DEFAULT_BACKEND = "tensorrt-rtx"
DEFAULT_SAMPLES = 8


@dataclass(frozen=True)
class EngineRequest:
    """Engines to add to a bundle once it is there."""

    library: Library
    options: BuildOptions
    cache_dir: str | None

    def fulfil(self, bundle: Path, say: Callable[[str], None]) -> dict[str, Any]:
        """Build them; returns what was built, for the summary.

        Raises:
            EngineError: a graph cannot be built. The bundle stays as it is, without engines.
        """
        from svg_export.engines import add_engines

        try:
            engines = add_engines(bundle, self.library, self.options, EngineCache(self.cache_dir, say), say)
        except EngineError as error:
            raise EngineError(f"{error}\n  '{bundle}' is written, without engines") from error
        name = f"{self.library.name} {self.library.version}"
        say(f"{len(engines)} engines of {name} for {', '.join(self.options.targets)}: built, not run")
        return {
            "library": name,
            "targets": list(self.options.targets),
            "max_samples": self.options.max_batch,
            "files": engines,
        }


def engine_request(
    engine: bool, backend: str | None, targets: str | None, samples: int | None, workspace: float | None, cache_dir: str | None
) -> EngineRequest | None:
    """What the options ask for; None without --engine.

    Raises:
        UsageError: an option without effect, or targets that the library does not know.
        BackendMissingError, MissingExtraError: a backend whose engines cannot be built here.
    """
    flags = {
        "--backend": backend,
        "--target": targets,
        "--samples": samples,
        "--workspace": workspace,
        "--cache-dir": cache_dir,
    }
    given = [flag for flag, value in flags.items() if value is not None]
    if not engine:
        if given:
            raise UsageError(f"{', '.join(given)} given, but nothing asks for engines\n  add --engine, or leave them out")
        return None
    name = backend or DEFAULT_BACKEND
    if name == "tensorrt":
        raise BackendMissingError(
            "engines of 'tensorrt' can be built on the GPU that runs them only, which is not part of this release\n"
            f"  expected --backend {DEFAULT_BACKEND}, whose engines are built on any machine"
        )
    library = load_library(name)
    chosen = tuple(targets.split(",")) if targets is not None else library.compute_capabilities
    check_targets(library, chosen)
    return EngineRequest(library, BuildOptions(chosen, samples or DEFAULT_SAMPLES, workspace), cache_dir)
