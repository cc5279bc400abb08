"""ONNX graph -> engine, with NVIDIA's parser and builder. TensorRT-RTX builds on any machine, TensorRT on the GPU that runs it.

Networks are strongly typed: the types in the ONNX graph are the types that are computed in, and TensorFloat-32 is off, because
fp32 graphs promise float32.
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

    targets: tuple[str, ...]  # compute capabilities: sm80, sm86, ...; none: for the GPU that this thread uses
    max_batch: int  # samples: engines take every batch from 1 to this one and are tuned for it
    workspace_gib: float | None = None  # device memory for temporary results; None leaves it to the library


def engine_flags(library: Library) -> tuple[str, ...]:
    """How `build_engine` builds with this library, for an engine's key."""
    return FLAGS if library.user_allocation is None else (*FLAGS, "user-allocation")


def check_targets(library: Library, targets: Sequence[str]) -> None:
    """Refuse what the library cannot build for.

    Raises:
        UsageError: a target has no meaning, or none is given, or one is given twice.
    """
    known = library.compute_capabilities
    if not targets or set(targets) - set(known) or len(set(targets)) < len(targets):
        raise UsageError(
            f"invalid targets '{','.join(targets)}'\n"
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
    """Build one graph.

    Args:
        library: TensorRT.
        content: the ONNX file.
        graph_file: its name in messages, such as fp16/step.onnx.
        spec: its interface by the manifest, which the network must have.
        precision: of the variant; in fp16 every convolution over feature maps must be computed in float16.
        options: what to build for.
        monitor: the library's IProgressMonitor, which hears how far it is and can cancel it.
        timings: of earlier builds on this GPU, to which those of this one are added.

    Returns:
        The plan, as the library serializes it.

    Raises:
        EngineError: the parser complains, or the builder fails, or the network is not what the manifest says.
    """
    builder = library.start("Builder")
    network = builder.create_network(library.network_flags)
    _parse(library, network, content, graph_file)
    _check_interface(network, graph_file, spec)
    if precision == "fp16":
        _check_half(library, network, graph_file)
    config = _configure(library, builder, spec, options)
    if monitor is not None:
        config.progress_monitor = monitor
    if timings is not None:
        timings.attach(library, config)
    with library.collect_messages() as messages:
        plan = builder.build_serialized_network(network, config)
    errors = [message for is_error, message in messages if is_error]
    # TensorRT also reports an error for every kernel that it does not try because memory is short, and goes on.
    if plan is None or (errors and library.ahead_of_time):
        wanted = ", ".join(options.targets) or "this GPU"
        raise refused(library, graph_file, f"cannot be built for {wanted}", errors or ["no reason given"])
    if timings is not None:
        timings.collect(config)
    return bytes(plan)


def _parse(library: Library, network: Any, content: bytes, graph_file: str) -> None:
    """The parser warns where it computes something else than the graph says: that is refused, where all releases are known.

    TensorRT comes in many, with a Jetson's system: what one of them has to say must not be the end of the backend there.
    """
    parser = library.module.OnnxParser(network, library.logger)
    with library.collect_messages() as messages:
        parsed = parser.parse(content)
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [f"node '{error.node_name()}' ({error.node_operator()}): {error.desc()}" for error in errors]
    lines = lines or [message for is_error, message in messages if is_error or library.ahead_of_time]
    if parsed and not lines and messages:
        said = "; ".join(message for _, message in messages)
        _LOG.warning("%s %s warns about %s: %s", library.name, library.version, graph_file, said)
    if lines or not parsed:
        raise refused(library, graph_file, "is not accepted by the parser", lines or ["no reason given"])


def _configure(library: Library, builder: Any, spec: GraphSpec, options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    config.clear_flag(library.module.BuilderFlag.TF32)
    config.profiling_verbosity = library.module.ProfilingVerbosity.DETAILED  # tells the layers' types, see check.py
    if library.user_allocation is not None:
        config.set_flag(library.user_allocation)
    if options.targets:
        config.num_compute_capabilities = len(options.targets)
    for index, target in enumerate(options.targets):
        config.set_compute_capability(getattr(library.module.ComputeCapability, target.upper()), index)
    if options.workspace_gib is not None:
        config.set_memory_pool_limit(library.module.MemoryPoolType.WORKSPACE, int(options.workspace_gib * 2**30))
    profile = builder.create_optimization_profile()
    for tensor in spec.inputs:
        profile.set_shape(tensor.name, *tensor.batch_range(options.max_batch))
    config.add_optimization_profile(profile)
    return config


def _check_interface(network: Any, graph_file: str, spec: GraphSpec) -> None:
    """In a strongly typed network, these are the engine's tensors: the builder may change neither type nor shape."""
    found = {
        "inputs": [network.get_input(index) for index in range(network.num_inputs)],
        "outputs": [network.get_output(index) for index in range(network.num_outputs)],
    }
    problems = []
    for what, promised in (("inputs", spec.inputs), ("outputs", spec.outputs)):
        given = sorted((tensor.name, dtype_name(tensor.dtype), tuple(tensor.shape)) for tensor in found[what])
        expected = sorted(
            (tensor.name, tensor.dtype, tuple(size if isinstance(size, int) else -1 for size in tensor.shape))
            for tensor in promised
        )
        if given != expected:
            problems.append(f"its {what} are {given}, the manifest says {expected}")
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
    """Not a matrix product of the recurrent parts, which are float32 in every variant, in the guise of a 1x1 convolution."""
    return bool(max(*tuple(layer.get_input(0).shape)[2:], *tuple(layer.get_output(0).shape)[2:]) > 1)


def dtype_name(dtype: Any) -> str:
    """A library's DataType, as the manifest writes it."""
    name = str(dtype.name)
    return _DTYPES.get(name, name)


def refused(library: Library, graph_file: str, what: str, lines: Iterable[str]) -> EngineError:
    """What the library said about a graph, as an error."""
    return EngineError(f"{graph_file} {what} ({library.name} {library.version}):\n  " + "\n  ".join(lines))
