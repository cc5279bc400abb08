"""The contract of the graphs: roles, and how their tensors fit each other. A manifest that contradicts itself is refused.

It is relational: no size is computed from a model's settings, so tensors and states of any rank fit, of any family. Tensors of
one name have one type and one shape wherever they appear; a state has that of its `_out`; mu, logvar and z have one size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from svg_runtime.bundle.manifest import BATCH, COND_BATCH, GraphSpec, Manifest, Precision, PrecisionVariant, TensorSpec

FUSED = ("prime", "step")
SHUFFLED_DECODER = "decoder_shuffled"  # optional: the decoder with its last layer as convolution + depth-to-space
SEPARATE = ("encoder", "predictor", "decoder")  # with them the forecast loop runs on the separate graphs
# In the order of the data: what a graph gives is compared with what the earlier ones gave.
ROLES = ("encoder", "skip", "posterior", "prior", "predictor", "decoder", SHUFFLED_DECODER, *FUSED, "decode")

# Outputs that the loop reads, by role. step also gives what is shown: a frame, or what decode makes frames of.
_NEEDED = {
    "encoder": {"h"}, "posterior": {"mu", "logvar", "state_out"}, "prior": {"mu", "logvar", "state_out"},
    "predictor": {"g", "state_out"}, "decoder": {"frame"}, SHUFFLED_DECODER: {"frame"}, "decode": {"frame"},
}  # fmt: skip
_RECURRENT = ("posterior", "prior", "predictor")  # separate graphs with one state each, which starts as zeros

Graphs = Mapping[str, GraphSpec]
_Kind = tuple[str, int, tuple[int | str, ...]]  # type, position of the batch axis, and the sizes of the others


def has_separate(variant: PrecisionVariant) -> bool:
    """Whether the forecast loop can run on the separate graphs."""
    return set(SEPARATE) <= variant.graphs.keys()


def has_step(variant: PrecisionVariant) -> bool:
    """Whether it can run on the graph that makes a whole step."""
    return "step" in variant.graphs


def interface_errors(manifest: Manifest) -> list[str]:
    """List everything in which the graphs contradict the manifest or each other, one line each; empty if all is right."""
    problems = []
    for precision, variant in manifest.variants.items():
        where, graphs = f"variants.{precision}.graphs", variant.graphs
        roles = list(_role_errors(manifest, graphs))
        problems += [f"{where}: the graphs are {sorted(graphs)}; {problem}" for problem in roles]
        if not roles:
            found = [
                *_tensor_errors(graphs, precision), *_agreement_errors(manifest, graphs),
                *_state_errors(manifest, graphs), *_source_errors(manifest, graphs),
            ]  # fmt: skip
            problems += [f"{where}.{problem}" for problem in found]
    return problems


def _role_errors(manifest: Manifest, graphs: Graphs) -> Iterator[str]:
    """Which graphs there must be."""
    names = set(graphs)
    unknown = sorted(names - set(ROLES))
    if unknown:
        yield f"unknown: {unknown}"
    separate = names & {*SEPARATE, "posterior", "prior", SHUFFLED_DECODER} - {"encoder"}
    if not separate and "step" not in names:
        yield f"expected step, or {sorted(SEPARATE)}"
    if separate and not set(SEPARATE) <= names:
        yield f"expected also {sorted(set(SEPARATE) - names)}"
    if ("prime" in names) != (names >= {"step", "encoder"}):
        yield "expected prime and step together, or step alone in a model without encoder"
    yield from _optional_role_errors(manifest, graphs)


def _optional_role_errors(manifest: Manifest, graphs: Graphs) -> Iterator[str]:
    names, prior = set(graphs), manifest.model.prior
    has_skips = "encoder" in names and any(name.startswith("skip_") for name in _outputs(graphs["encoder"]))
    if has_skips != ("skip" in names):
        yield "expected skip if the encoder has skips, and only then"
    gives_frames = "step" in names and "frame" in _outputs(graphs["step"])
    if "decode" in names and ("step" not in names or gives_frames):
        yield "decode needs a step that gives no frames itself"
    if "step" in names and not gives_frames and "decode" not in names:
        yield "step gives no frames, and there is no decode"
    if manifest.generation.last_frame_skip and ("skip" not in names or "decode" in names):
        yield "last_frame_skip needs skip, and a step that gives frames itself"
    if "encoder" not in names and (prior != "none" or "decode" in names):
        yield f"a model without encoder has a step from frame to frame, and no latents; the prior is '{prior}'"
    if set(SEPARATE) <= names and manifest.context_draws != manifest.generation.n_past - 1:
        draws = manifest.generation.n_past - 1
        yield f"the posterior draws {draws} times while a context is read, but context_draws is {manifest.context_draws}"
    if set(SEPARATE) <= names:
        expected = {"learned": {"posterior", "prior"}, "fixed": {"posterior"}, "none": set()}[prior]
        if names & {"posterior", "prior"} != expected:
            yield f"expected {sorted(expected)} of posterior and prior, as the prior is '{prior}'"
    if "step" in names and ("mu" in _outputs(graphs["step"])) != (prior == "learned"):
        yield f"step must give mu and logvar of a learned prior, and only then; the prior is '{prior}'"


def _tensor_errors(graphs: Graphs, precision: Precision) -> Iterator[str]:
    """Each tensor by itself: its type, its batch axis, and that its name is there once; and the outputs that are needed."""
    for graph_name, spec in graphs.items():
        for side, tensors in (("inputs", spec.inputs), ("outputs", spec.outputs)):
            place, names = f"{graph_name}.{side}", [tensor.name for tensor in tensors]
            for tensor in tensors:
                symbols = [size for size in tensor.shape if isinstance(size, str)]
                shared = _may_be_shared(graphs, graph_name, side, tensor.name)
                if len(symbols) != 1 or (symbols[0] not in shared):
                    yield f"{place}: {_told(tensor)}, expected one dynamic axis, {' or '.join(shared)}"
                is_map = tensor.name.startswith(("skip_", "cond_"))
                if tensor.dtype != "float32" and not (is_map and precision == "fp16"):
                    yield f"{place}: {_told(tensor)}, expected float32"
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                yield f"{place}: {len(names)} tensors, twice: {twice}"
        missing = _NEEDED.get(graph_name, set()) - set(_outputs(spec))
        if missing:
            others = ", ".join(_told(tensor) for tensor in spec.outputs)
            yield f"{graph_name}.outputs: {others or '0 tensors'}; missing: {sorted(missing)}"


def _may_be_shared(graphs: Graphs, graph_name: str, side: str, name: str) -> tuple[str, ...]:
    """The symbols that the batch axis of a tensor may have: inputs that are computed at batch 1 must accept it."""
    from_prime = name in _outputs(graphs["prime"]) if "prime" in graphs else False
    if side == "inputs" and graph_name in ("decoder", SHUFFLED_DECODER, "step", "decode"):
        # The batch of decode is that of all steps: what is the same for all of them comes at batch 1.
        if name.startswith("cond_") or (graph_name == "decode" and from_prime):
            return (COND_BATCH,)
        if from_prime and graphs["prime"].tensor(name).shape.count(COND_BATCH):
            return (COND_BATCH,)
    if graph_name == "prime" and (side == "outputs" or name == "h_seq"):
        return BATCH, COND_BATCH
    return (BATCH,)


def _agreement_errors(manifest: Manifest, graphs: Graphs) -> Iterator[str]:
    """Tensors of one name have one type and shape everywhere; some of them must be what the manifest says."""
    frame, z_dim = manifest.frame, manifest.model.z_dim
    known: dict[str, tuple[str, _Kind]] = {
        "frame": ("the manifest", ("float32", 0, (frame.channels, frame.height, frame.width)))
    }
    if "encoder" not in graphs:
        known["h"] = known["frame"]  # the frames themselves are what is read
    for name in ("eps", "mu") if "posterior" in graphs else ("eps",):
        known[name] = ("the manifest", ("float32", 0, (z_dim,)))
    for graph_name in (name for name in ROLES if name in graphs):
        spec = graphs[graph_name]
        for side, tensors in (("inputs", spec.inputs), ("outputs", spec.outputs)):
            for tensor in tensors:
                steps = _steps(graph_name, tensor, manifest)
                if steps is not None and tensor.shape[:1] != (steps,):
                    yield f"{graph_name}.{side}: {_told(tensor)}, expected {steps} steps as the first axis"
                    continue
                kind = _kind(tensor.shape if steps is None else tensor.shape[1:], tensor.dtype)
                owner, expected = known.setdefault(_key(graph_name, tensor.name), (f"{graph_name}.{side}", kind))
                if kind != expected:
                    dtype, axis, sizes = expected
                    told = f"{dtype} {list(sizes)} with the batch as axis {axis}"
                    yield f"{graph_name}.{side}: {_told(tensor)}, {owner} has {told}"


def _key(graph_name: str, name: str) -> str:
    """What a tensor is called wherever it appears."""
    name = name.removesuffix("_out")
    if graph_name in _RECURRENT and name == "state":
        return f"{graph_name}_state"
    if graph_name == "predictor" and name == "z":
        return "mu"
    if name.removeprefix("posterior_").removeprefix("prior_") in ("mu", "logvar"):
        return "mu"
    return "h" if name == "h_seq" else name


def _steps(graph_name: str, tensor: TensorSpec, manifest: Manifest) -> int | None:
    """Length of the first axis of what is a sequence; None for all other tensors."""
    lengths = {"h_seq": manifest.generation.n_past, "eps": manifest.context_draws}
    return lengths.get(tensor.name) if graph_name == "prime" else None


def _kind(shape: tuple[int | str, ...], dtype: str) -> _Kind:
    """What tensors of one name have in common; `shape` is that of one step."""
    axis = next((index for index, size in enumerate(shape) if isinstance(size, str)), -1)
    return dtype, axis, tuple(size for index, size in enumerate(shape) if index != axis)


def _state_errors(manifest: Manifest, graphs: Graphs) -> Iterator[str]:
    """States are carried from an output to the input of its name; where they start, and that none is forgotten."""
    for graph_name, spec in graphs.items():
        pairs = [(state.input, state.output, state.initial) for state in spec.states]
        inputs, outputs = ({tensor.name for tensor in side} for side in (spec.inputs, spec.outputs))
        expected = _expected_states(manifest=manifest, graphs=graphs, graph_name=graph_name, inputs=inputs, outputs=outputs)
        for pair in pairs:
            if pair not in expected:
                yield f"{graph_name}.states: {pair}, expected {sorted(expected) or 'none'}"
        missing = [pair for pair in expected if pair not in pairs]
        if missing or len(pairs) != len(set(pairs)):
            yield f"{graph_name}.states: {pairs}, expected {sorted(expected)}"


def _expected_states(
    manifest: Manifest, graphs: Graphs, graph_name: str, inputs: set[str], outputs: set[str]
) -> list[tuple[str, str, str]]:
    if graph_name in _RECURRENT:
        return [("state", "state_out", "zeros")]
    if graph_name != "step":
        return []
    given = {"h", *(_outputs(graphs["prime"]) if "prime" in graphs else ())}
    carried = [name for name in sorted(inputs) if f"{name}_out" in outputs]
    conds = [name for name in sorted(inputs) if name.startswith("cond_")] if manifest.generation.last_frame_skip else []
    names = [name for name in carried if not name.startswith("cond_")] + conds
    return [(name, f"{name}_out", "given" if name in given or name in conds else "zeros") for name in names]


def _source_errors(manifest: Manifest, graphs: Graphs) -> Iterator[str]:
    """Every input is something that the loop has, and none is missing that the loop writes."""
    conds = set(_outputs(graphs["skip"])) if "skip" in graphs else set()
    primed = set(_outputs(graphs["prime"])) if "prime" in graphs else set()
    shown = set(_outputs(graphs["step"])) if "step" in graphs else set()
    carried = graphs["step"].states if "step" in graphs else ()
    states, states_out = {state.input for state in carried}, {state.output for state in carried}
    skips = {name for name in _outputs(graphs["encoder"]) if name != "h"} if "encoder" in graphs else set()
    sources = {
        "encoder": {"frame"}, "skip": skips, "posterior": {"h", "state"}, "prior": {"h", "state"},
        "predictor": {"h", "z", "state"}, "decoder": {"g"} | conds, SHUFFLED_DECODER: {"g"} | conds,
        "prime": {"h_seq", "eps"}, "step": {"eps"} | conds | primed | states, "decode": (shown - states_out) | conds | primed,
    }  # fmt: skip
    needed = _needed_inputs(manifest, graphs, skips, conds)
    for graph_name, spec in graphs.items():
        for tensor in spec.inputs:
            if tensor.name not in sources[graph_name]:
                yield f"{graph_name}.inputs: {_told(tensor)}, expected {sorted(sources[graph_name])}"
        given = {tensor.name for tensor in spec.inputs}
        if needed[graph_name] - given:
            yield f"{graph_name}.inputs: {len(given)} tensors; missing: {sorted(needed[graph_name] - given)}"
    if "decode" in graphs and not (shown - states_out) & {tensor.name for tensor in graphs["decode"].inputs}:
        yield f"decode.inputs: nothing that step gives; expected one of {sorted(shown - states_out)}"
    if "skip" in graphs and not all(name.startswith("cond_") for name in conds):
        yield f"skip.outputs: {sorted(conds)}, expected cond_0, cond_1, ..."
    if "skip" in graphs and not conds:
        yield "skip.outputs: 0 tensors"


def _needed_inputs(manifest: Manifest, graphs: Graphs, skips: set[str], conds: set[str]) -> dict[str, set[str]]:
    """Inputs that the loop writes, by role; without its noise, a model with latents would always show the same future."""
    latents = bool(manifest.model.z_dim)
    noise = {"eps"} if latents else set()
    return {
        "encoder": {"frame"}, "skip": skips, "posterior": {"h", "state"}, "prior": {"h", "state"},
        "predictor": {"h", "state", "z"} if latents else {"h", "state"}, "decoder": {"g"} | conds,
        SHUFFLED_DECODER: {"g"} | conds, "prime": {"h_seq"} | (noise if manifest.context_draws else set()),
        "step": noise if "encoder" in graphs else {"h"}, "decode": set(),
    }  # fmt: skip


def _outputs(spec: GraphSpec) -> list[str]:
    return [tensor.name for tensor in spec.outputs]


def _told(tensor: TensorSpec) -> str:
    return str((tensor.name, tensor.dtype, tensor.shape))
