"""Sessions whose nodes all run on the GPU: nodes that ONNX Runtime assigns to the CPU are an error unless allowed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from svg_runtime.backends.onnxruntime.providers import ALLOWED, CPU, CUDA, TENSORRT, Provider
from svg_runtime.backends.onnxruntime.session import load_session, session_options
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
        session: ONNX Runtime's InferenceSession.
        nodes: provider -> its nodes; empty if this ONNX Runtime does not report them.
        computed: precision -> layers with weights that are computed in it; None if TensorRT chooses without reporting it.
        on_cpu: the nodes that run on the CPU, where that is allowed.

    Raises:
        BackendMissingError: the provider does not start, or nodes are assigned to the CPU without permission.
        BundleError: ONNX Runtime cannot load the graph.
    """

    def __init__(self, provider: Provider, content: bytes, graph_file: str, spec: GraphSpec) -> None:
        self._provider = provider
        self._graph_file = graph_file
        self.computed: Counter[str] | None = None
        load, strict = partial(self._load, content, spec), not provider.gpu_options.cpu_fallback
        try:
            self.session = load(strict)
        except Exception as refusal:  # ONNX Runtime raises its own unrelated classes
            raise self._explained(refusal, load) from refusal
        self.nodes = placed_nodes(self.session)
        self.on_cpu = self._disallowed(self.nodes)
        if strict and self.on_cpu:
            raise self._assigned_to_cpu(self.on_cpu)

    @property
    def mixed(self) -> bool:
        """Whether some nodes may run on the CPU."""
        return self._provider.gpu_options.cpu_fallback and (not self.nodes or bool(self.on_cpu))

    def _disallowed(self, nodes: Mapping[str, list[str]]) -> list[str]:
        allowed = ALLOWED[self._provider.backend]
        return [node for name, placed in nodes.items() if name not in allowed for node in placed]

    def _explained(self, refusal: Exception, load: Callable[[bool], Any]) -> Exception:
        """Find out why a graph cannot be loaded without the CPU, by trying with the CPU allowed."""
        provider = self._provider
        try:
            session = load(False)
        except BackendMissingError as error:
            return error
        except RuntimeError as error:  # a provider that does not start; errors in a graph are other classes
            return provider.missing(str(error))
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            hint = NO_GRAPH if provider.cuda_graph else ""
            return BundleError(f"the {provider.backend} backend cannot load {self._graph_file}: {error}{hint}")
        return self._assigned_to_cpu(self._disallowed(placed_nodes(session)) or [str(refusal)])

    def _assigned_to_cpu(self, nodes: list[str]) -> BackendMissingError:
        return BackendMissingError(
            f"the {self._provider.backend} backend cannot run all of {self._graph_file} on the GPU; ONNX Runtime assigns "
            f"to the CPU: {', '.join(nodes)}\n  expected every node on the GPU: export the bundle again if an older release "
            "wrote it, allow the CPU with --cpu-fallback, or use --backend cpu"
        )

    def _load(self, content: bytes, spec: GraphSpec, strict: bool) -> Any:
        """Create a session; `strict` makes nodes on the CPU an error, in any release of ONNX Runtime."""
        provider = self._provider
        options = session_options(provider.onnxruntime, 1)  # threads would have nothing to do
        options.log_severity_level = 4  # a refusal is an exception
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # read by 1.24 and later
        if strict:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        # By default the CPU replaces a provider that does not start, and the reason is printed to stdout.
        providers = provider.options(spec)
        make = partial(provider.onnxruntime.InferenceSession, content, providers=providers, enable_fallback=0)
        if provider.hides_precision:
            session = make(options)
        else:
            session, layers = load_session(make, options, content, provider.precision)
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
