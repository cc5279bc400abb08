"""Sessions whose nodes all run on the GPU: nodes that ONNX Runtime assigns to the CPU are an error unless allowed."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

from svg_runtime.backends.onnxruntime.providers import ALLOWED, CPU, CUDA, TENSORRT, Provider
from svg_runtime.backends.onnxruntime.session import load_session, refuse_full_memory, session_options
from svg_runtime.bundle.manifest import GraphSpec
from svg_runtime.errors import BackendMissingError, BundleError

_LABELS = {CUDA: "CUDA", TENSORRT: "TensorRT", CPU: "the CPU"}
NO_GRAPH = "\n  if the CUDA graph is the cause, use --no-cuda-graph"


class PlacedSession:
    """One graph, loaded for every batch size, so that all of it runs on the GPU.

    Args:
        provider: the execution provider.
        content: the ONNX file.
        graph_file: its name in messages, such as fp32/step.onnx.
        spec: its interface.

    Attributes:
        session: ONNX Runtime's InferenceSession; `for_batch` gives the one to run.
        nodes: provider -> its nodes; empty if this ONNX Runtime does not report them.
        computed: precision -> layers with weights that are computed in it; None if TensorRT chooses without reporting it.
        on_cpu: the nodes that run on the CPU, where that is allowed.

    Raises:
        BackendMissingError: the provider does not start, or nodes are assigned to the CPU without permission.
        BundleError: ONNX Runtime cannot load the graph.
        MemoryError: not enough memory of the device or the host.
    """

    def __init__(self, provider: Provider, content: bytes, graph_file: str, spec: GraphSpec) -> None:
        self._provider = provider
        self._graph_file = graph_file
        self._content = content
        self._spec = spec
        self._strict = not provider.gpu_options.cpu_fallback
        self.computed: Counter[str] | None = None
        self.session = self._open()
        self.nodes = placed_nodes(self.session)
        self.on_cpu = self._disallowed(self.nodes)
        if self._strict and self.on_cpu:
            raise self._assigned_to_cpu(self.on_cpu)
        self._sessions: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # batch -> session

    def for_batch(self, batch: int) -> Any:
        """Return the session for this batch size; the caller keeps it alive.

        A convolution on CUDA keeps what cuDNN has prepared for the last shape alone, and prepares it again, for milliseconds,
        whenever the shape changes (onnxruntime #23006). The encoder alternates between one frame and one per sample, so every
        batch size has a session of its own.

        Raises:
            MemoryError: not enough memory for one more.
        """
        if not self._prepares_shapes:
            return self.session
        session = self._sessions.get(batch)
        if session is None:
            session = self._open() if self._sessions else self.session
            self._sessions[batch] = session
        return session

    @property
    def asynchronous(self) -> bool:
        """Whether ONNX Runtime may return from a run before the device has finished.

        A node such as Concat takes page-locked memory for the addresses of its inputs, which ONNX Runtime frees only at the end
        of a synchronous run; after asynchronous ones it grows with every run, and freeing the session aborts the process (seen
        in 1.30). A replayed CUDA graph runs no such code, and TensorRT's engines have none.
        """
        return self._provider.cuda_graph or (bool(self.nodes) and set(self.nodes) == {TENSORRT})

    @property
    def _prepares_shapes(self) -> bool:
        """Whether convolutions run on CUDA, as far as ONNX Runtime reports it."""
        if not self.nodes:
            return self._provider.backend == "cuda"
        return any("Conv" in node.partition(" ")[0] for node in self.nodes.get(CUDA, []))

    @property
    def mixed(self) -> bool:
        """Whether some nodes may run on the CPU."""
        return self._provider.gpu_options.cpu_fallback and (not self.nodes or bool(self.on_cpu))

    def _disallowed(self, nodes: Mapping[str, list[str]]) -> list[str]:
        allowed = ALLOWED[self._provider.backend]
        return [node for name, placed in nodes.items() if name not in allowed for node in placed]

    def _open(self) -> Any:
        try:
            return self._load(self._strict)
        except Exception as refusal:  # ONNX Runtime raises its own unrelated classes
            refuse_full_memory(refusal)
            raise self._explained(refusal) from refusal

    def _explained(self, refusal: Exception) -> Exception:
        """Find out why a graph cannot be loaded without the CPU, by trying with the CPU allowed."""
        provider = self._provider
        try:
            session = self._load(strict=False)
        except BackendMissingError as error:
            return error
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            refuse_full_memory(error)
            if isinstance(error, RuntimeError):  # a provider that does not start; errors in a graph are other classes
                return provider.missing(str(error))
            hint = NO_GRAPH if provider.cuda_graph else ""
            return BundleError(f"the {provider.backend} backend cannot load {self._graph_file}: {error}{hint}")
        return self._assigned_to_cpu(self._disallowed(placed_nodes(session)) or [str(refusal)])

    def _assigned_to_cpu(self, nodes: list[str]) -> BackendMissingError:
        return BackendMissingError(
            f"the {self._provider.backend} backend cannot run all of {self._graph_file} on the GPU; ONNX Runtime assigns "
            f"to the CPU: {', '.join(nodes)}\n  expected every node on the GPU: export the bundle again if an older release "
            "wrote it, allow the CPU with --cpu-fallback, or use --backend cpu"
        )

    def _load(self, strict: bool) -> Any:
        """Create a session; `strict` makes nodes on the CPU an error, in any release of ONNX Runtime."""
        provider = self._provider
        options = session_options(provider.onnxruntime, 1)  # threads would have nothing to do
        options.log_severity_level = 4  # a refusal is an exception
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # read by 1.24 and later
        if strict:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        # By default the CPU replaces a provider that does not start, and the reason is printed to stdout.
        providers = provider.options(self._spec)
        make = partial(provider.onnxruntime.InferenceSession, self._content, providers=providers, enable_fallback=0)
        if provider.hides_precision:
            session = make(options)
        else:
            session, layers = load_session(make, options, self._content, provider.precision)
            self.computed = layers
        started = session.get_providers()
        if started[0] != provider.name:
            raise provider.missing(f"ONNX Runtime started {', '.join(started)} instead")
        return session


def placed_nodes(session: Any) -> dict[str, list[str]]:
    """Map each provider to its nodes, such as "Gemm 'node_linear'"; empty before ONNX Runtime 1.24, which reports none."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    placed: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        placed.setdefault(part.ep_name, []).extend(f"{node.op_type} '{node.name}'" for node in part.get_nodes())
    return placed


def describe_placement(graphs: Mapping[str, PlacedSession]) -> str:
    """Describe how many nodes run where; "" if ONNX Runtime does not report it."""
    counts: Counter[str] = Counter()
    for graph in graphs.values():
        counts.update({name: len(nodes) for name, nodes in graph.nodes.items()})
    parts = [f"{count} on {_LABELS.get(name, name)}" for name, count in counts.most_common()]
    return f"nodes: {', '.join(parts)}" if parts else ""
