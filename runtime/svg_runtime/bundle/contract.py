"""The contract of the graphs: roles, and how their tensors fit each other. A manifest that contradicts itself is refused.

It is relational: no size is computed from a model's settings, so tensors and states of any rank fit, of any family. Tensors of
one name have one type and one shape wherever they appear; a state has that of its `_out`; mu, logvar and z have one size.
A name has one source, so that nothing that the loop writes is overwritten, and every state has a start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice

from svg_runtime.bundle.manifest import (
    BATCH,
    COND_BATCH,
    FORECAST,
    SAMPLES,
    GraphSpec,
    Manifest,
    Precision,
    PrecisionVariant,
    TensorSpec,
)

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

# Names with a meaning of their own.
_GAUSSIANS = {"mu", "logvar", "posterior_mu", "posterior_logvar", "prior_mu", "prior_logvar"}
RESERVED_NAMES = {"frame", "eps", "h_seq", "state"} | _GAUSSIANS  # which no state of step may have
_MOST_PROBLEMS = 20  # that are looked for: a hostile manifest has millions
_MOST_LISTED = 8  # names in a message

Graphs = Mapping[str, GraphSpec]
_Kind = tuple[str, int, tuple[int | str, ...]]  # type, position of the batch axis, and the sizes of the others
_State = tuple[str, str, str]  # input, output, initial


def has_separate(variant: PrecisionVariant) -> bool:
    """Whether the forecast loop can run on the separate graphs."""
    return set(SEPARATE) <= variant.graphs.keys()


def has_step(variant: PrecisionVariant) -> bool:
    """Whether it can run on the graph that makes a whole step."""
    return "step" in variant.graphs


def interface_errors(manifest: Manifest) -> list[str]:
    """List in what the graphs contradict the manifest or each other: the first 20, one line each; empty if all is right."""
    return list(islice(_interface_errors(manifest), _MOST_PROBLEMS))


def _interface_errors(manifest: Manifest) -> Iterator[str]:
    for precision, variant in manifest.variants.items():
        where, graphs = f"variants.{precision}.graphs", variant.graphs
        names = _Names.of(graphs)
        roles = [*_role_errors(manifest, graphs), *_optional_role_errors(manifest, graphs, names)]
        yield from (f"{where}: the graphs are {_listed(graphs)}; {problem}" for problem in roles)
        if not roles:
            yield from (f"{where}.{problem}" for problem in _tensor_errors(manifest, graphs, names, precision))
        if variant.forecast is not None:
            yield from (f"variants.{precision}.{problem}" for problem in _forecast_errors(manifest, graphs, variant.forecast))


@dataclass(frozen=True)
class _Names:
    """What the graphs of one variant give each other, by name."""

    skips: frozenset[str]  # of the encoder
    conds: frozenset[str]  # of skip
    primed: frozenset[str]  # of prime
    states: frozenset[str]  # that step carries
    step: frozenset[str]  # all that step gives
    shown: frozenset[str]  # of it, what is not a state
    decoded: frozenset[str]  # what decode reads
    shared: frozenset[str]  # of prime, what is the same for all samples

    @classmethod
    def of(cls, graphs: Graphs) -> _Names:
        outputs = {name: frozenset(tensor.name for tensor in spec.outputs) for name, spec in graphs.items()}
        states = graphs["step"].states if "step" in graphs else ()
        step, none = outputs.get("step", frozenset()), frozenset[str]()
        primed = graphs["prime"].outputs if "prime" in graphs else ()
        return cls(
            skips=outputs.get("encoder", none) - {"h"},
            conds=outputs.get("skip", none),
            primed=outputs.get("prime", none),
            states=frozenset(state.input for state in states),
            step=step,
            shown=step - {state.output for state in states},
            decoded=frozenset(tensor.name for tensor in graphs["decode"].inputs) if "decode" in graphs else none,
            shared=frozenset(tensor.name for tensor in primed if COND_BATCH in tensor.shape),
        )


def _role_errors(manifest: Manifest, graphs: Graphs) -> Iterator[str]:
    """Which graphs there must be."""
    names = set(graphs)
    unknown = names - set(ROLES)
    if unknown:
        yield f"unknown: {_listed(unknown)}"
    separate = names & {*SEPARATE, "posterior", "prior", SHUFFLED_DECODER} - {"encoder"}
    if not separate and "step" not in names:
        yield f"expected step, or {sorted(SEPARATE)}"
    if separate and not set(SEPARATE) <= names:
        yield f"expected also {sorted(set(SEPARATE) - names)}"
    if ("prime" in names and "step" not in names) or (names >= {"step", "encoder"} and "prime" not in names):
        yield "expected prime and step together, or step alone in a model without encoder"
    if manifest.generation.context == "stream" and "prime" in names and not separate:
        yield f"the context 'stream' needs {sorted(SEPARATE)}, or a step without prime; expected 'window'"


def _optional_role_errors(manifest: Manifest, graphs: Graphs, given: _Names) -> Iterator[str]:
    """Which of the others belong to them."""
    names, prior = set(graphs), manifest.model.prior
    has_skips = any(name.startswith("skip_") for name in given.skips)
    if has_skips != ("skip" in names):
        yield "expected skip if the encoder has skips, and only then"
    gives_frames = "frame" in given.step
    if "decode" in names and ("step" not in names or gives_frames):
        yield "decode needs a step that gives no frames itself"
    if "step" in names and not gives_frames and "decode" not in names:
        yield "step gives no frames, and there is no decode"
    if manifest.generation.last_frame_skip and ("skip" not in names or "decode" in names):
        yield "last_frame_skip needs skip, and a step that gives frames itself"
    if not names & {"encoder", "prime"} and (prior != "none" or "decode" in names):
        yield f"a model without encoder and prime has a step from frame to frame, and no latents; the prior is '{prior}'"
    if set(SEPARATE) <= names and manifest.context_draws != manifest.generation.n_past - 1:
        draws = manifest.generation.n_past - 1
        yield f"the posterior draws {draws} times while a context is read, but context_draws is {manifest.context_draws}"
    if set(SEPARATE) <= names:
        expected = {"learned": {"posterior", "prior"}, "fixed": {"posterior"}, "none": set()}[prior]
        if names & {"posterior", "prior"} != expected:
            yield f"expected {sorted(expected)} of posterior and prior, as the prior is '{prior}'"
    if "step" in names and ("mu" in given.step) != (prior == "learned"):
        yield f"step must give mu and logvar of a learned prior, and only then; the prior is '{prior}'"


def _tensor_errors(manifest: Manifest, graphs: Graphs, names: _Names, precision: Precision) -> Iterator[str]:
    """All that can be wrong with the tensors, once the roles are right."""
    yield from _type_errors(graphs, precision)
    yield from _batch_errors(graphs, names)
    yield from _name_errors(graphs)
    yield from _agreement_errors(manifest, graphs)
    yield from _state_errors(manifest, graphs, names)
    yield from _start_errors(manifest, graphs, names)
    yield from _origin_errors(names)
    yield from _source_errors(manifest, graphs, names)
    yield from _skip_errors(graphs, names)


def _type_errors(graphs: Graphs, precision: Precision) -> Iterator[str]:
    """Only feature maps may be in half precision."""
    for place, tensor in _tensors(graphs):
        is_map = tensor.name.startswith(("skip_", "cond_"))
        if tensor.dtype != "float32" and not (is_map and precision == "fp16"):
            yield f"{place}: {_told(tensor)}, expected float32"


def _batch_errors(graphs: Graphs, names: _Names) -> Iterator[str]:
    """Each tensor has one axis for the batch, which is also 1 for what the loop computes once for all samples."""
    for graph_name, spec in graphs.items():
        for tensor in spec.inputs:
            yield from _symbol_errors(f"{graph_name}.inputs", tensor, _symbols_of_input(graph_name, tensor.name, names))
            # The latents of all steps are laid one after the other along this axis.
            if graph_name == "decode" and tensor.name in names.shown and tensor.shape[:1] != (BATCH,):
                yield f"decode.inputs: {_told(tensor)}, expected the batch as the first axis"
        for tensor in spec.outputs:
            yield from _symbol_errors(f"{graph_name}.outputs", tensor, _symbols_of_output(graph_name, tensor.name, names))


def _symbol_errors(place: str, tensor: TensorSpec, expected: tuple[str, ...]) -> Iterator[str]:
    symbols = [size for size in tensor.shape if isinstance(size, str)]
    if len(symbols) != 1 or symbols[0] not in expected:
        yield f"{place}: {_told(tensor)}, expected one dynamic axis, {' or '.join(expected)}"


def _symbols_of_input(graph_name: str, name: str, names: _Names) -> tuple[str, ...]:
    """The symbols that the batch axis may have: inputs that are computed at batch 1 must accept it."""
    if graph_name == "prime" and name == "h_seq":
        return BATCH, COND_BATCH
    if graph_name in ("decoder", SHUFFLED_DECODER, "step", "decode") and name.startswith("cond_"):
        return (COND_BATCH,)
    if graph_name == "decode" and name in names.primed:  # decode's batch is that of all steps
        return (COND_BATCH,)
    if graph_name == "step" and name in names.shared - names.states:
        return (COND_BATCH,)
    return (BATCH,)


def _symbols_of_output(graph_name: str, name: str, names: _Names) -> tuple[str, ...]:
    """The same for outputs: prime may compute some once for all samples; states are each sample's own."""
    if graph_name != "prime" or name in names.states:
        return (BATCH,)
    return (COND_BATCH,) if name in names.decoded else (BATCH, COND_BATCH)


def _name_errors(graphs: Graphs) -> Iterator[str]:
    """A name is there once in a graph, only outputs have one that ends in `_out`, and no output that is needed is missing."""
    for graph_name, spec in graphs.items():
        for side, tensors in (("inputs", spec.inputs), ("outputs", spec.outputs)):
            twice = [name for name, count in Counter(tensor.name for tensor in tensors).items() if count > 1]
            if twice:
                yield f"{graph_name}.{side}: {len(tensors)} tensors, twice: {_listed(twice)}"
        inputs, outputs = ({tensor.name for tensor in side} for side in (spec.inputs, spec.outputs))
        if inputs & outputs:
            yield f"{graph_name}.outputs: {_listed(inputs & outputs)}, which are inputs of the same graph too"
        ending = {name for name in inputs if name.endswith("_out")}
        if ending:
            yield f"{graph_name}.inputs: {_listed(ending)}; only the outputs of states end in _out"
        missing = _NEEDED.get(graph_name, set()) - outputs
        if missing:
            others = ", ".join(_told(tensor) for tensor in spec.outputs[:_MOST_LISTED])
            yield f"{graph_name}.outputs: {others or '0 tensors'}; missing: {sorted(missing)}"


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
        for place, tensor in _tensors({graph_name: graphs[graph_name]}):
            steps = _steps(graph_name, tensor, manifest)
            if steps is not None and tensor.shape[:1] != (steps,):
                yield f"{place}: {_told(tensor)}, expected {steps} steps as the first axis"
                continue
            kind = _kind(tensor.shape if steps is None else tensor.shape[1:], tensor.dtype)
            owner, expected = known.setdefault(_key(graph_name, tensor.name), (place, kind))
            if kind != expected:
                dtype, axis, sizes = expected
                told = f"{dtype} {list(sizes)} with the batch as axis {axis}"
                yield f"{place}: {_told(tensor)}, {owner} has {told}"


def _key(graph_name: str, name: str) -> str:
    """What a tensor is called wherever it appears."""
    name = name.removesuffix("_out")
    if graph_name in _RECURRENT and name == "state":
        return f"{graph_name}_state"
    if graph_name == "predictor" and name == "z":
        return "mu"
    if name in _GAUSSIANS:
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


def _state_errors(manifest: Manifest, graphs: Graphs, names: _Names) -> Iterator[str]:
    """States are carried from an output to the input of its name, of the same shape, and none is forgotten."""
    for graph_name, spec in graphs.items():
        pairs = [(state.input, state.output, state.initial) for state in spec.states]
        expected = _expected_states(manifest, graphs, graph_name, names)
        for pair in pairs:
            if pair not in expected:
                yield f"{graph_name}.states: {pair}, expected {_listed(expected) if expected else 'none'}"
        if expected - set(pairs) or len(pairs) != len(set(pairs)):
            yield f"{graph_name}.states: {_listed(pairs)}, expected {_listed(expected)}"
        yield from _pair_errors(graph_name, spec)


def _expected_states(manifest: Manifest, graphs: Graphs, graph_name: str, names: _Names) -> set[_State]:
    if graph_name in _RECURRENT:
        return {("state", "state_out", "zeros")}
    if graph_name != "step":
        return set()
    inputs = {tensor.name for tensor in graphs["step"].inputs}
    conds = {name for name in inputs if name.startswith("cond_")}
    carried = {name for name in inputs - conds if f"{name}_out" in names.step}
    if manifest.generation.last_frame_skip:
        carried |= conds
    return {(name, f"{name}_out", "given" if name == "h" or "prime" in graphs else "zeros") for name in carried}


def _pair_errors(graph_name: str, spec: GraphSpec) -> Iterator[str]:
    """The output of a state is written where the next step reads its input."""
    inputs, outputs = ({tensor.name: tensor for tensor in side} for side in (spec.inputs, spec.outputs))
    for state in spec.states:
        before, after = inputs.get(state.input), outputs.get(state.output)
        if before and after and _kind(before.shape, before.dtype) != _kind(after.shape, after.dtype):
            yield f"{graph_name}.states: {_told(after)}, expected the type and shape of {_told(before)}"


def _start_errors(manifest: Manifest, graphs: Graphs, names: _Names) -> Iterator[str]:
    """Where the states of step come from."""
    reserved = names.states & RESERVED_NAMES
    if reserved:
        yield f"step.states: {_listed(reserved)}, names that no state may have"
    if "prime" in graphs:  # only what is given starts anew with every forecast
        given = {"h"} | names.primed | (names.conds if manifest.generation.last_frame_skip else set())
        for state in graphs["step"].states:
            if state.input not in given:
                yield f"step.states: {(state.input, state.output, state.initial)}, expected prime to give {state.input}"
    if "step" in graphs and set(SEPARATE) <= graphs.keys():  # in a stream they start from the states of the separate graphs
        expected = {"h", "predictor_state"} | ({"prior_state"} if "prior" in graphs else set())
        actual = {name for name in names.states if not name.startswith("cond_")}
        if actual != expected:
            yield f"step.states: {_listed(actual)}, expected {sorted(expected)}, as the separate graphs have them"


def _origin_errors(names: _Names) -> Iterator[str]:
    """What the loop finds under a name comes from one place."""
    sources = {
        "the noise": {"eps"}, "encoder": names.skips | {"h"}, "skip": names.conds, "prime": names.primed, "step": names.step,
    }  # fmt: skip
    for (first, one), (second, other) in combinations(sources.items(), 2):
        if one & other:
            yield f"{second}.outputs: {_listed(one & other)}, expected other names than those of {first}"


def _source_errors(manifest: Manifest, graphs: Graphs, names: _Names) -> Iterator[str]:
    """Every input is something that the loop has, and none is missing that the loop writes."""
    sources = {
        "encoder": {"frame"}, "skip": names.skips, "posterior": {"h", "state"}, "prior": {"h", "state"},
        "predictor": {"h", "z", "state"}, "decoder": {"g"} | names.conds, SHUFFLED_DECODER: {"g"} | names.conds,
        "prime": {"h_seq", "eps"}, "step": {"eps"} | names.conds | names.primed | names.states,
        "decode": names.shown | names.conds | (names.primed - names.states),  # it runs after the last step, which moved them on
    }  # fmt: skip
    needed = _needed_inputs(manifest, graphs, names)
    for graph_name, spec in graphs.items():
        for tensor in spec.inputs:
            if tensor.name not in sources[graph_name]:
                yield f"{graph_name}.inputs: {_told(tensor)}, expected {_listed(sources[graph_name])}"
        missing = needed[graph_name] - {tensor.name for tensor in spec.inputs}
        if missing:
            yield f"{graph_name}.inputs: {len(spec.inputs)} tensors; missing: {_listed(missing)}"
    if "decode" in graphs and not names.shown & names.decoded:
        yield f"decode.inputs: nothing that step gives; expected one of {_listed(names.shown)}"


def _needed_inputs(manifest: Manifest, graphs: Graphs, names: _Names) -> dict[str, set[str] | frozenset[str]]:
    """Inputs that the loop writes, by role; without its noise, a model with latents would always show the same future."""
    latents = bool(manifest.model.z_dim)
    noise = {"eps"} if latents else set()
    return {
        "encoder": {"frame"}, "skip": names.skips, "posterior": {"h", "state"}, "prior": {"h", "state"},
        "predictor": {"h", "state", "z"} if latents else {"h", "state"}, "decoder": {"g"} | names.conds,
        SHUFFLED_DECODER: {"g"} | names.conds, "prime": {"h_seq"} | (noise if manifest.context_draws else set()),
        "step": noise if "prime" in graphs else {"h"}, "decode": set(),
    }  # fmt: skip


def _skip_errors(graphs: Graphs, names: _Names) -> Iterator[str]:
    if "skip" not in graphs:
        return
    if not names.conds:
        yield "skip.outputs: 0 tensors"
    if not all(name.startswith("cond_") for name in names.conds):
        yield f"skip.outputs: {_listed(names.conds)}, expected cond_0, cond_1, ..."


def _forecast_errors(manifest: Manifest, graphs: Graphs, spec: GraphSpec) -> Iterator[str]:
    """What can be wrong with the graph for servers: it reads what a Forecaster does, and gives what a Forecaster does."""
    z_dim, frame = manifest.model.z_dim, (manifest.frame.channels, manifest.frame.height, manifest.frame.width)
    futures = next((tensor.shape for tensor in spec.outputs if tensor.name == "futures"), ())
    horizon = futures[2] if len(futures) > 2 and isinstance(futures[2], int) else 1
    inputs: dict[str, tuple[int | str, ...]] = {"frames": (BATCH, manifest.generation.n_past, *frame)}
    if z_dim and manifest.context_draws:
        inputs["context_eps"] = (BATCH, manifest.context_draws, SAMPLES, z_dim)
    if z_dim:
        inputs["eps"] = (BATCH, horizon, SAMPLES, z_dim)
    outputs: dict[str, tuple[int | str, ...]] = {"futures": (BATCH, SAMPLES if z_dim else 1, horizon, *frame)}
    if "posterior" in graphs or ("prime" in graphs and any(t.name == "posterior_mu" for t in graphs["prime"].outputs)):
        outputs["surprise"] = (BATCH,)
    for side, tensors, shapes in (("inputs", spec.inputs, inputs), ("outputs", spec.outputs, outputs)):
        expected = [(name, "float32", shape) for name, shape in shapes.items()]
        if [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors] != expected:
            told = ", ".join(map(_told, tensors[:_MOST_LISTED]))
            yield f"{FORECAST}.{side}: {told}, expected {', '.join(map(str, expected))}"
    if spec.states:
        yield f"{FORECAST}.states: {len(spec.states)}, expected none"


def _tensors(graphs: Graphs) -> Iterator[tuple[str, TensorSpec]]:
    """Every tensor, with its graph and side."""
    for graph_name, spec in graphs.items():
        for side, tensors in (("inputs", spec.inputs), ("outputs", spec.outputs)):
            for tensor in tensors:
                yield f"{graph_name}.{side}", tensor


def _listed(names: Collection[object]) -> str:
    """The first few, in order."""
    shown = [*map(repr, sorted(names, key=str)[:_MOST_LISTED])]
    rest = len(names) - len(shown)
    return f"[{', '.join(shown)}{f', and {rest} more' if rest else ''}]"


def _told(tensor: TensorSpec) -> str:
    return str((tensor.name, tensor.dtype, tensor.shape))
