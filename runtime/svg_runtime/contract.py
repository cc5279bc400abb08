"""The contract of the six graphs: how their interfaces follow from the model's dimensions and fit each other.

A manifest that contradicts itself is refused before a graph is opened. Recurrent state is described here for family `svg`
alone; a family whose state has another rank brings its own description.
"""

from __future__ import annotations

from collections.abc import Mapping

from svg_runtime.manifest import BATCH, COND_BATCH, GraphSpec, Manifest, Precision, TensorSpec

Tensor = tuple[str, str, tuple[int | str, ...]]  # name, dtype, shape
Interface = tuple[list[Tensor], list[Tensor]]  # inputs, outputs

ROLES = ("encoder", "skip", "posterior", "prior", "predictor", "decoder")
_STATES = {"posterior": [("state", "state_out")], "prior": [("state", "state_out")], "predictor": [("state", "state_out")]}


def contradictions(manifest: Manifest) -> list[str]:
    """Everything in which the graphs do not fit each other or the dimensions, one line each; empty when all fits."""
    problems = []
    for precision, variant in manifest.variants.items():
        place = f"variants.{precision}.graphs"
        if set(variant.graphs) != set(ROLES):
            problems.append(f"{place}: the graphs are {sorted(variant.graphs)}, expected {sorted(ROLES)}")
            continue
        for role, (inputs, outputs) in _interfaces(manifest, precision, variant.graphs).items():
            spec = variant.graphs[role]
            problems += _differences(f"{place}.{role}.inputs", _listed(spec.inputs), inputs)
            problems += _differences(f"{place}.{role}.outputs", _listed(spec.outputs), outputs)
            states = [(state.input, state.output) for state in spec.states]
            problems += _differences(f"{place}.{role}.states", states, _STATES.get(role, []))
    return problems


def _interfaces(manifest: Manifest, precision: Precision, graphs: Mapping[str, GraphSpec]) -> dict[str, Interface]:
    """The table of the bundle format, filled in. Feature maps are free in shape, but the same wherever they appear."""
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

    return {
        "encoder": ([frame], [h, *skips]),
        "skip": (skips, conds),
        "posterior": gaussian(m.posterior_layers),
        "prior": gaussian(m.prior_layers),
        "predictor": ([h, z, state("state", m.predictor_layers)], [g, state("state_out", m.predictor_layers)]),
        "decoder": ([g, *shared], [frame]),
    }


def _vector(name: str, size: int) -> Tensor:
    return name, "float32", (BATCH, size)


def _feature_maps(prefix: str, count: int, given: tuple[TensorSpec, ...], precision: Precision) -> list[Tensor]:
    """`count` tensors called prefix_i with the inner sizes of `given`; only an fp16 variant may keep them in float16."""
    maps: list[Tensor] = []
    for index in range(count):
        spec = given[index] if index < len(given) else None
        sizes = [size for size in spec.shape[1:] if isinstance(size, int)] if spec else []
        dtype = spec.dtype if spec and precision == "fp16" else "float32"
        maps.append((f"{prefix}_{index}", dtype, (BATCH, *sizes)))
    return maps


def _listed(specs: tuple[TensorSpec, ...]) -> list[Tensor]:
    return [(spec.name, spec.dtype, spec.shape) for spec in specs]


def _differences(
    place: str, given: list[Tensor] | list[tuple[str, str]], expected: list[Tensor] | list[tuple[str, str]]
) -> list[str]:
    """Names the tensors that differ, not the ones that fit."""
    if len(given) != len(expected):
        return [f"{place}: {len(given)} tensors, the model's dimensions need {len(expected)}"]
    return [f"{place}: {a}, the model's dimensions need {b}" for a, b in zip(given, expected, strict=True) if a != b]
