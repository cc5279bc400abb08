"""ONNX graph -> engine, with NVIDIA's parser and builder. TensorRT-RTX builds on any machine, TensorRT on the GPU that runs it.

Networks are strongly typed: layers compute in the types of the ONNX graph. TensorFloat-32 is off, because fp32 graphs promise
float32.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from svg_runtime.backends.tensorrt.nvidia_library import Library
from svg_runtime.backends.tensorrt.timings import Timings
from svg_runtime.bundle.manifest import GraphSpec, Precision
from svg_runtime.errors import EngineError, UsageError

_LOG = logging.getLogger(__name__)
FLAGS = ("strongly-typed", "no-tf32")
_DTYPES = {"FLOAT": "float32", "HALF": "float16"}


@dataclass(frozen=True)
class BuildOptions:
    """What an engine is built for."""

    compute_capabilities: tuple[str, ...]  # sm80, sm86, ...; empty: for this thread's GPU
    max_batch: int  # samples: engines accept batches from 1 to this one and are tuned for it
    workspace_gib: float | None = None  # GPU memory for temporary results; None lets the library choose


def engine_flags(library: Library) -> tuple[str, ...]:
    """Return the build flags that are part of an engine's key."""
    return FLAGS if library.user_allocation is None else (*FLAGS, "user-allocation")


def check_compute_capabilities(library: Library, capabilities: Sequence[str]) -> None:
    """Refuse compute capabilities that the library cannot build for.

    Raises:
        UsageError: one is unknown or repeated, or the list is empty.
    """
    known = library.compute_capabilities
    if not capabilities or set(capabilities) - set(known) or len(set(capabilities)) < len(capabilities):
        raise UsageError(
            f"invalid targets '{','.join(capabilities)}'\n"
            f"  expected one or more of: {', '.join(known)} ({library.name} {library.version}), separated by commas, each once"
        )


def build_engine(
    library: Library,
    content: bytes,
    graph_file: str,
    spec: GraphSpec,
    precision: Precision,
    options: BuildOptions,
    monitor: Any = None,
    timings: Timings | None = None,
) -> bytes:
    """Build the engine of one graph.

    Args:
        library: TensorRT or TensorRT-RTX.
        content: the ONNX file.
        graph_file: its name in messages, such as fp16/step.onnx.
        spec: its interface in the manifest, which the network must match.
        precision: of the variant; in fp16 every convolution over feature maps must be computed in float16, except in graphs
            that the manifest keeps in float32, wholly or partly.
        options: GPUs, batch and memory to build for.
        monitor: the library's IProgressMonitor, which receives progress and can cancel the build.
        timings: kernel timings of earlier builds on this GPU; this build adds its own.

    Returns:
        The serialized engine.

    Raises:
        EngineError: the parser or the builder fails, or the network does not match the manifest.
    """
    builder = library.start("Builder")
    network = builder.create_network(library.network_flags)
    _parse(library, network, content, graph_file)
    _check_interface(network, graph_file, spec)
    if precision == "fp16" and spec.computes == "variant":
        _check_half(library, network, graph_file)
    config = _configure(library, builder, spec, options)
    if monitor is not None:
        config.progress_monitor = monitor
    if timings is not None:
        timings.attach(library, config)
    with library.collect_messages() as messages:
        engine_bytes = builder.build_serialized_network(network, config)
    errors = [message for is_error, message in messages if is_error]
    # TensorRT also reports an error for every kernel that it skips for lack of memory, and continues.
    if engine_bytes is None or (errors and library.ahead_of_time):
        gpus = ", ".join(options.compute_capabilities) or "this GPU"
        raise library_error(library, graph_file, f"cannot be built for {gpus}", errors or ["no reason given"])
    if timings is not None:
        timings.collect(config)
    return bytes(engine_bytes)


def _parse(library: Library, network: Any, content: bytes, graph_file: str) -> None:
    """Parse the graph. A warning means that the parser deviates from the graph, which is refused with TensorRT-RTX.

    TensorRT comes in many releases, some of them part of a Jetson's system: there a warning must not disable the backend.
    """
    parser = library.module.OnnxParser(network, library.logger)
    with library.collect_messages() as messages:
        parsed = parser.parse(content)
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [f"node '{error.node_name()}' ({error.node_operator()}): {error.desc()}" for error in errors]
    lines = lines or [message for is_error, message in messages if is_error or library.ahead_of_time]
    if parsed and not lines and messages:
        warnings = "; ".join(message for _, message in messages)
        _LOG.warning("%s %s warns about %s: %s", library.name, library.version, graph_file, warnings)
    if lines or not parsed:
        raise library_error(library, graph_file, "is not accepted by the parser", lines or ["no reason given"])


def _configure(library: Library, builder: Any, spec: GraphSpec, options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    config.clear_flag(library.module.BuilderFlag.TF32)
    config.profiling_verbosity = library.module.ProfilingVerbosity.DETAILED  # reports the layers' types, see check.py
    if library.user_allocation is not None:
        config.set_flag(library.user_allocation)
    if options.compute_capabilities:
        config.num_compute_capabilities = len(options.compute_capabilities)
    for index, capability in enumerate(options.compute_capabilities):
        config.set_compute_capability(getattr(library.module.ComputeCapability, capability.upper()), index)
    if options.workspace_gib is not None:
        config.set_memory_pool_limit(library.module.MemoryPoolType.WORKSPACE, int(options.workspace_gib * 2**30))
    profile = builder.create_optimization_profile()
    for tensor in spec.inputs:
        profile.set_shape(tensor.name, *tensor.batch_range(options.max_batch))
    config.add_optimization_profile(profile)
    return config


def _check_interface(network: Any, graph_file: str, spec: GraphSpec) -> None:
    """Compare the network with the manifest. In a strongly typed network the builder changes neither types nor shapes."""
    tensors = {
        "inputs": [network.get_input(index) for index in range(network.num_inputs)],
        "outputs": [network.get_output(index) for index in range(network.num_outputs)],
    }
    problems = []
    for side, promised in (("inputs", spec.inputs), ("outputs", spec.outputs)):
        actual = sorted((tensor.name, dtype_name(tensor.dtype), tuple(tensor.shape)) for tensor in tensors[side])
        expected = sorted(
            (tensor.name, tensor.dtype, tuple(size if isinstance(size, int) else -1 for size in tensor.shape))
            for tensor in promised
        )
        if actual != expected:
            problems.append(f"its {side} are {actual}, the manifest says {expected}")
    if problems:
        raise EngineError(f"the network of {graph_file} does not match the manifest:\n  " + "\n  ".join(problems))


def _check_half(library: Library, network: Any, graph_file: str) -> None:
    types = library.module.LayerType
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    convolutions = [layer for layer in layers if layer.type in (types.CONVOLUTION, types.DECONVOLUTION)]
    wrong = [
        layer.name for layer in convolutions if _is_feature_map(layer) and dtype_name(layer.get_output(0).dtype) != "float16"
    ]
    if wrong:
        raise EngineError(f"{graph_file} of an fp16 variant computes in float32: {', '.join(wrong)}\n  export the bundle again")


def _is_feature_map(layer: Any) -> bool:
    """Exclude matrix products of the recurrent parts, always float32, which the parser writes as 1x1 convolutions."""
    return bool(max(*tuple(layer.get_input(0).shape)[2:], *tuple(layer.get_output(0).shape)[2:]) > 1)


def dtype_name(dtype: Any) -> str:
    """Return the manifest's name of a library's DataType: float32, float16."""
    name = str(dtype.name)
    return _DTYPES.get(name, name)


def library_error(library: Library, graph_file: str, problem: str, lines: Iterable[str]) -> EngineError:
    """Return an error with the library's messages about a graph."""
    return EngineError(f"{graph_file} {problem} ({library.name} {library.version}):\n  " + "\n  ".join(lines))
