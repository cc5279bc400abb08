"""The contract of the graphs: the interfaces that follow from the model's dimensions.

A manifest that contradicts itself is refused before a graph is opened. Recurrent state is described here only for the family
`svg`; a family whose state has another rank needs its own description.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from svg_runtime.bundle.manifest import BATCH, COND_BATCH, GraphSpec, Manifest, ModelSpec, Precision, TensorSpec

Tensor = tuple[str, str, tuple[int | str, ...]]  # name, dtype, shape
Interface = tuple[list[Tensor], list[Tensor]]  # inputs, outputs

FUSED = ("prime", "step")  # a bundle has both or neither
SHUFFLED_DECODER = "decoder_shuffled"  # optional: the decoder with its last layer as convolution + depth-to-space


def graph_names(model: ModelSpec) -> tuple[str, ...]:
    """List the separate graphs of a model: six with a learned prior, five with a fixed prior, four without latents."""
    posterior = ("posterior",) if model.posterior_layers else ()
    prior = ("prior",) if model.prior_layers else ()
    return ("encoder", "skip", *posterior, *prior, "predictor", "decoder")


def interface_errors(manifest: Manifest) -> list[str]:
    """List everything in which the graphs contradict the dimensions or each other, one line each; empty if all is right."""
    problems = []
    for precision, variant in manifest.variants.items():
        where = f"variants.{precision}.graphs"
        expected = graph_names(manifest.model)
        if set(variant.graphs) - {SHUFFLED_DECODER} not in (set(expected), {*expected, *FUSED}):
            optional = [*FUSED, SHUFFLED_DECODER]
            problems.append(
                f"{where}: the graphs are {sorted(variant.graphs)}, expected {sorted(expected)} and optionally {optional}"
            )
            continue
        for graph_name, (inputs, outputs) in _interfaces(manifest, precision, variant.graphs).items():
            spec = variant.graphs[graph_name]
            problems += _differences(f"{where}.{graph_name}.inputs", _listed(spec.inputs), inputs)
            problems += _differences(f"{where}.{graph_name}.outputs", _listed(spec.outputs), outputs)
            states = [(state.input, state.output, state.initial) for state in spec.states]
            problems += _differences(f"{where}.{graph_name}.states", states, _states(manifest, graph_name))
    return problems


def _states(manifest: Manifest, graph_name: str) -> list[tuple[str, str, str]]:
    if graph_name in ("posterior", "prior", "predictor"):
        return [("state", "state_out", "zeros")]
    if graph_name != "step":
        return []
    prior = ["prior_state"] if manifest.model.prior_layers else []
    conds = [f"cond_{index}" for index in range(manifest.model.skips)] if manifest.generation.last_frame_skip else []
    return [(name, f"{name}_out", "given") for name in ("h", "predictor_state", *prior, *conds)]


def _interfaces(manifest: Manifest, precision: Precision, graphs: Mapping[str, GraphSpec]) -> dict[str, Interface]:
    """Fill in the table of the bundle format. Feature maps may have any shape, but the same one wherever they appear."""
    m, f = manifest.model, manifest.frame
    frame: Tensor = ("frame", "float32", (BATCH, f.channels, f.height, f.width))
    h, g, z = _vector("h", m.g_dim), _vector("g", m.g_dim), _vector("z", m.z_dim)
    mu, logvar = _vector("mu", m.z_dim), _vector("logvar", m.z_dim)
    skips = _feature_maps("skip", m.skips, graphs["encoder"].outputs[1:], precision)
    conds = _feature_maps("cond", m.skips, graphs["skip"].outputs, precision)
    shared = [(name, dtype, (COND_BATCH, *shape[1:])) for name, dtype, shape in conds]

    def state(name: str, layers: int) -> Tensor:
        return name, "float32", (2 * layers, BATCH, m.rnn_size)

    def gaussian(layers: int) -> Interface:
        return [h, state("state", layers)], [mu, logvar, state("state_out", layers)]

    z_inputs = [z] if m.z_dim else []
    decoder: Interface = [g, *shared], [frame]
    interfaces: dict[str, Interface] = {
        "encoder": ([frame], [h, *skips]),
        "skip": (skips, conds),
        "posterior": gaussian(m.posterior_layers),
        "prior": gaussian(m.prior_layers),
        "predictor": ([h, *z_inputs, state("state", m.predictor_layers)], [g, state("state_out", m.predictor_layers)]),
        "decoder": decoder,
        SHUFFLED_DECODER: decoder,
    }
    if "prime" in graphs:
        interfaces |= _fused(manifest=manifest, state=state, frame=frame, conds=conds, shared=shared)
    return {graph_name: interfaces[graph_name] for graph_name in graphs}


def _fused(
    manifest: Manifest, state: Callable[[str, int], Tensor], frame: Tensor, conds: list[Tensor], shared: list[Tensor]
) -> dict[str, Interface]:
    """Interfaces of the graphs that are composed of the others. Tensors of parts that the model lacks are left out."""
    m, g = manifest.model, manifest.generation

    def states(suffix: str = "") -> tuple[list[Tensor], list[Tensor]]:
        prior = [state(f"prior_state{suffix}", m.prior_layers)] if m.prior_layers else []
        return [state(f"predictor_state{suffix}", m.predictor_layers)], prior

    def last(part: str, layers: int) -> list[Tensor]:
        return [(f"{part}_{name}", "float32", (COND_BATCH, m.z_dim)) for name in ("mu", "logvar")] if layers else []

    (predictor, prior), (predictor_out, prior_out) = states(), states("_out")
    eps: list[Tensor] = [_vector("eps", m.z_dim)] if m.z_dim else []
    past: list[Tensor] = [("eps", "float32", (g.n_past - 1, BATCH, m.z_dim))] if m.z_dim else []
    gaussian = [_vector("mu", m.z_dim), _vector("logvar", m.z_dim)] if m.prior_layers else []
    followed = [(f"{name}_out", dtype, shape) for name, dtype, shape in conds] if g.last_frame_skip else []
    return {
        "prime": (
            [("h_seq", "float32", (g.n_past, COND_BATCH if m.z_dim else BATCH, m.g_dim)), *past],
            [*predictor, *prior, *last("posterior", m.posterior_layers), *last("prior", m.prior_layers)],
        ),
        "step": (
            [_vector("h", m.g_dim), *shared, *predictor, *eps, *prior],
            [frame, _vector("h_out", m.g_dim), *predictor_out, *prior_out, *gaussian, *followed],
        ),
    }


def _vector(name: str, size: int) -> Tensor:
    return name, "float32", (BATCH, size)


def _feature_maps(prefix: str, count: int, declared: tuple[TensorSpec, ...], precision: Precision) -> list[Tensor]:
    """Return `count` tensors named prefix_i with the inner sizes of `declared`; only fp16 variants may have them in float16."""
    maps: list[Tensor] = []
    for index in range(count):
        spec = declared[index] if index < len(declared) else None
        sizes = [size for size in spec.shape[1:] if isinstance(size, int)] if spec else []
        dtype = spec.dtype if spec and precision == "fp16" else "float32"
        maps.append((f"{prefix}_{index}", dtype, (BATCH, *sizes)))
    return maps


def _listed(specs: tuple[TensorSpec, ...]) -> list[Tensor]:
    return [(spec.name, spec.dtype, spec.shape) for spec in specs]


def _differences(where: str, actual: Sequence[tuple[object, ...]], expected: Sequence[tuple[object, ...]]) -> list[str]:
    """List only the tensors that differ, one line each."""
    if len(actual) != len(expected):
        return [f"{where}: {len(actual)} tensors, the model's dimensions require {len(expected)}"]
    return [f"{where}: {a}, the model's dimensions require {b}" for a, b in zip(actual, expected, strict=True) if a != b]
