"""Builds single graphs with NVIDIA's real parser and builder."""

from __future__ import annotations

import hashlib

import pytest

from svg_export.engines import target_groups
from svg_export.to_onnx import read_interface
from svg_export.turing import TURING, convolve_matrix_products
from svg_runtime.backends.tensorrt.build import BuildOptions, build_engine
from svg_runtime.backends.tensorrt.nvidia_library import Library, load_library
from svg_runtime.bundle.manifest import Computes, GraphSpec, Precision

TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120")


def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install 'svg-edge[tensorrt-rtx]'")
    return load_library("tensorrt-rtx")


def spec_of(content: bytes, computes: Computes = "variant") -> GraphSpec:
    inputs, outputs, opset = read_interface(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return GraphSpec(
        file="graph.onnx", sha256=sha256, bytes=len(content), opset=opset, inputs=inputs, outputs=outputs, computes=computes
    )


def build_for_all(
    content: bytes,
    place: str,
    precision: Precision,
    max_batch: int = 8,
    targets: tuple[str, ...] = TARGETS,
    computes: Computes = "variant",
) -> list[bytes]:
    """One engine per group of targets. Any message of the library, warnings of the builder included, fails the test."""
    library, engines = rtx(), []
    for group in target_groups(targets):
        graph = convolve_matrix_products(content) if TURING in group else content
        with library.collect_messages() as messages:
            spec, options = spec_of(content, computes), BuildOptions(group, max_batch)
            engines.append(build_engine(library, graph, place, spec, precision, options))
            assert messages == []
    return engines
