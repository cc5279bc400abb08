"""Writes a bundle: exports the graphs, checks them at the parity gate, and publishes folder and manifest as one."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import ValidationError

from svg_common.errors import ExitCode, SvgError, UsageError
from svg_common.files import atomic_directory
from svg_common.progress import NullListener, ProgressListener
from svg_common.validation import problem_line
from svg_common.version import installed_version
from svg_export.families import FAMILY_EXPORTS
from svg_export.forecast_graph import compose_forecast
from svg_export.forecast_parity import forecast_reports
from svg_export.graph_export import GraphExport, state_specs, unwritten_graphs
from svg_export.parity import check_fp32, compare_fp16
from svg_export.precision import DrawnFrames, HeldOut, attach_quality_reports, load_held_out
from svg_export.to_onnx import OPSET, export_graph, read_interface, shuffled_decoder
from svg_runtime.backends.nvidia.engine_files import BUNDLE_FOLDER as ENGINES
from svg_runtime.bundle.contract import ROLES, SHUFFLED_DECODER, interface_errors
from svg_runtime.bundle.manifest import (
    FILE_NAME,
    FORECAST,
    PRECISIONS,
    FrameSpec,
    GenerationSpec,
    GraphSpec,
    Manifest,
    ModelSpec,
    ParityReport,
    Precision,
    PrecisionVariant,
    Provenance,
)
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BundleError
from svg_train.checkpoint import Checkpoint

_LOG = logging.getLogger(__name__)
_MARK = b"svg-bundle"  # in every manifest
_LEFT_BEHIND = (".DS_Store", "Thumbs.db", "desktop.ini")
_GRAPH_FILES = tuple(f"{graph_name}.onnx" for graph_name in (*ROLES, FORECAST))
_ENGINE_FILES = (".plan", ".plan.json")
_LISTED = 5  # files in a message
_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime")


class ContractError(SvgError):
    """The runtime would refuse the bundle; nothing was published."""

    exit_code = ExitCode.PARITY_FAILED

    def __init__(self, problems: Iterable[str]) -> None:
        super().__init__(
            "the bundle violates its contract, so the runtime would refuse it:\n  " + "\n  ".join(problems)
            + "\n  nothing was published"
        )  # fmt: skip


def write_bundle(
    checkpoint: Checkpoint,
    checkpoint_sha256: str,
    out: Path,
    fp16: bool,
    fused: bool = True,
    bf16: bool = False,
    held_out: HeldOut | DrawnFrames | None = None,
    shuffled: bool = True,
    server_horizon: int | None = None,
    progress: ProgressListener | None = None,
) -> Manifest:
    """Export `checkpoint` to the bundle folder `out`, which appears whole or not at all.

    Args:
        checkpoint: the trained model.
        checkpoint_sha256: of its file, for the provenance.
        out: folder to make; an older bundle there is replaced, anything else is refused.
        fp16: add the fp16 variant, if it passes its gate.
        fused: add the graphs prime and step, which make forecasts faster and the bundle about twice as large. Families without
            separate graphs always have them.
        bf16: add the bf16 variant, if it passes its gate.
        shuffled: add the graph decoder_shuffled, if it applies to the backbone.
        held_out: what fp16 and bf16 are measured on; default: the held-out split of the checkpoint's own data, else frames
            drawn for the purpose.
        server_horizon: add the graph forecast, which makes whole forecasts of many cameras, with so many frames. It is composed
            of the fused graphs.
        progress: receives the progress of the quality gate.

    Raises:
        ParityError: the graphs do not compute what the model computes.
        ContractError: the runtime would refuse the bundle.
        PrecisionError: a reduced precision does not pass its gate.
        SvgError: no held-out sequences for a reduced precision, or this machine does not support it.
        UsageError: `out` exists and is not a bundle.
        OSError: the folder cannot be written.
    """
    refuse_foreign(out)
    held_out = held_out or load_held_out(checkpoint, {}, fp16, bf16)
    with atomic_directory(out) as folder:  # first: an unwritable folder fails before the work
        bundle_id = _bundle_id(checkpoint)
        describe = partial(_manifest, checkpoint, checkpoint_sha256, bundle_id)
        # 1) export the fp32 graphs and compare them with PyTorch
        model = checkpoint.build()
        family = FAMILY_EXPORTS[model.config.family]
        folded = family.fold(model)
        exports = family.graphs(folded, torch.float32, fused)
        _check_interface(exports, describe)
        fp32 = _export_all(exports, bundle_id)
        extra = _shuffled(fp32, bundle_id) if shuffled else {}
        _LOG.info("parity: fp32 graphs against PyTorch")
        contents, reports = {"fp32": fp32}, {"fp32": check_fp32(model, fp32 | extra)}
        # 2) export the graphs that differ in fp16, and compare them with those in fp32
        if fp16:
            half = family.graphs(folded, torch.float16, fused)
            differing = {graph_name: entry for graph_name, entry in half.items() if entry.computes != "float32"}
            contents["fp16"] = fp32 | _export_all(differing, bundle_id)
            _LOG.info("closed-loop error: fp16 graphs against fp32")
            reports["fp16"] = compare_fp16(model, fp32, contents["fp16"])
        # 3) compose the graph for servers of them, and compare it with PyTorch
        forecasts: dict[str, bytes] = {}
        if server_horizon is not None:
            _LOG.info("composing forecast, and its parity against PyTorch")
            compose = partial(compose_forecast, states=exports["step"].states, config=model.config, horizon=server_horizon)
            forecasts = {name: compose(graphs, bundle_id=bundle_id) for name, graphs in contents.items()}
            reports = forecast_reports(model, forecasts, server_horizon, reports)
        # 4) write the graphs, then run the quality gate of the reduced precisions on these files
        contents["fp32"] = fp32 | extra
        with _contract_errors():
            variants = _write_variants(
                folder=folder, contents=contents, forecasts=forecasts, exports=exports, reports=reports, bf16=bf16
            )
            manifest = describe(variants)
        if held_out is not None:
            manifest = attach_quality_reports(folder, manifest, held_out, progress or NullListener())
        # 5) write the manifest, and publish only what the runtime opens
        _write_manifest(folder, manifest)
        with _contract_errors():
            _open_as_the_runtime_does(folder)
    return manifest


def _check_interface(exports: Mapping[str, GraphExport], describe: Callable[[dict[str, PrecisionVariant]], Manifest]) -> None:
    """Refuse graphs that do not fit each other or the settings, as far as this is known before they are exported.

    The loops of the parity gate would crash on them, after the work and without words.

    Raises:
        ContractError: all that does not fit is listed.
    """
    with _contract_errors():
        unwritten = PrecisionVariant(graphs=unwritten_graphs(exports), parity=None)
        problems = interface_errors(describe({"fp32": unwritten}))
    if problems:
        raise ContractError(problems)


def _open_as_the_runtime_does(folder: Path) -> None:
    """Read manifest and graphs of all variants, which checks them against the contract and each other."""
    Bundle.open(folder).check()


@contextmanager
def _contract_errors() -> Iterator[None]:
    """Turn every refusal of the runtime's own objects and of its reader into a ContractError."""
    try:
        yield
    except BundleError as error:
        raise ContractError(error.problems or [str(error)]) from error
    except ValidationError as error:
        raise ContractError(problem_line(item) for item in error.errors()) from error


def refuse_foreign(out: Path) -> None:
    """Refuse to replace something that is not a bundle, or a bundle with other files in it, which would be lost.

    Raises:
        UsageError: for these reasons.
        OSError: the folder cannot be read.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    manifest = out / FILE_NAME
    if not manifest.is_file() or _MARK not in manifest.read_bytes():
        raise UsageError(f"'{out}' exists and is not a bundle\n  choose another --out")
    others = sorted(str(path.relative_to(out)) for path in out.rglob("*") if _is_end(path) and not _is_replaceable(path, out))
    if others:
        more = f" and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
        raise UsageError(
            f"the bundle '{out}' also holds files that svg-export did not write: {', '.join(others[:_LISTED])}{more}\n"
            "  it would be replaced, and they would be lost; move them away, or choose another --out"
        )


def _is_end(path: Path) -> bool:
    """Whether nothing else is listed for it: a file, a link wherever it leads, or an empty folder."""
    return path.is_symlink() or not path.is_dir() or not any(path.iterdir())


def _is_replaceable(path: Path, bundle: Path) -> bool:
    """Whether a part of a bundle is one that export writes again, or that a file manager leaves behind."""
    folder, *rest = path.relative_to(bundle).parts
    if folder.startswith(f".{ENGINES}."):  # of a build that was killed
        return True
    if path.name in _LEFT_BEHIND:
        return not rest or folder in (*PRECISIONS, ENGINES)
    if not rest:
        return folder in (FILE_NAME, *PRECISIONS, ENGINES)
    if folder == ENGINES:
        return path.name.endswith(_ENGINE_FILES) or path.is_dir()
    return folder in PRECISIONS and len(rest) == 1 and path.name in _GRAPH_FILES


def _export_all(exports: Mapping[str, GraphExport], bundle_id: str) -> dict[str, bytes]:
    return {graph_name: _export(entry, graph_name, bundle_id) for graph_name, entry in exports.items()}


def _export(graph_export: GraphExport, graph_name: str, bundle_id: str) -> bytes:
    _LOG.info("exporting %s", graph_name)
    return export_graph(graph_export, graph_name, bundle_id)


def _shuffled(fp32: Mapping[str, bytes], bundle_id: str) -> dict[str, bytes]:
    """The second decoder by its name, if there is a decoder that it applies to."""
    second = shuffled_decoder(fp32["decoder"], bundle_id) if "decoder" in fp32 else None
    return {} if second is None else {SHUFFLED_DECODER: second}


def _write_variants(
    folder: Path,
    contents: Mapping[str, dict[str, bytes]],
    forecasts: Mapping[str, bytes],
    exports: Mapping[str, GraphExport],
    reports: Mapping[str, ParityReport],
    bf16: bool,
) -> dict[str, PrecisionVariant]:
    """Write the graphs of all precisions. bf16 has no files of its own."""
    variants = {
        name: _write_variant(
            folder=folder,
            precision=name,
            contents=graphs,
            forecast=forecasts.get(name),
            exports=exports,
            report=reports[name],
        )
        for name, graphs in contents.items()
    }
    if bf16:
        shared = variants["fp32"]
        variants["bf16"] = PrecisionVariant(graphs=shared.graphs, parity=None, forecast=shared.forecast)
    return variants


def _write_variant(
    folder: Path,
    precision: str,
    contents: Mapping[str, bytes],
    forecast: bytes | None,
    exports: Mapping[str, GraphExport],
    report: ParityReport,
) -> PrecisionVariant:
    graphs = {}
    (folder / precision).mkdir(exist_ok=True)
    for graph_name, content in contents.items():
        entry = exports["decoder" if graph_name == SHUFFLED_DECODER else graph_name]
        spec = _write_graph(folder, f"{precision}/{graph_name}.onnx", content)
        of_export = {"states": state_specs(graph_name, entry, exports), "computes": entry.computes}
        graphs[graph_name] = spec.model_copy(update=of_export)
    for_servers = None if forecast is None else _write_graph(folder, f"{precision}/{FORECAST}.onnx", forecast)
    return PrecisionVariant(graphs=graphs, parity=report, forecast=for_servers)


def _write_graph(folder: Path, file: str, content: bytes) -> GraphSpec:
    """Write a file, and return what can be read from it."""
    (folder / file).write_bytes(content)
    inputs, outputs, opset = read_interface(content)
    return GraphSpec(
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        opset=opset,
        inputs=inputs,
        outputs=outputs,
        computes="variant",
    )


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps(manifest.model_dump(mode="json", exclude_none=False), indent=1, sort_keys=True)
    (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def _manifest(
    checkpoint: Checkpoint, checkpoint_sha256: str, bundle_id: str, variants: dict[str, PrecisionVariant]
) -> Manifest:
    model, train = checkpoint.config.model, checkpoint.config.train
    draws = model.context_draws
    elsewhere = {"family", "prior", "image_size", "channels", *GenerationSpec.model_fields}  # in other places of the manifest
    return Manifest(
        format="svg-bundle",
        schema_version=1,
        bundle_id=bundle_id,
        model=ModelSpec(
            family=model.family,
            prior=model.prior_kind,
            z_dim=model.noise_dim,
            settings={name: value for name, value in model.model_dump().items() if name not in elsewhere},
        ),
        frame=FrameSpec(
            height=model.height,
            width=model.width,
            channels=model.channels,
            colour_order="gray" if model.channels == 1 else "RGB",
            range=(0.0, 1.0),
        ),
        generation=GenerationSpec(
            n_past=model.n_past,
            skip_lag=getattr(model, "skip_lag", 0),
            last_frame_skip=getattr(model, "last_frame_skip", False),
            frame_interval_s=checkpoint.frame_interval_s,
            training_horizon=train.n_future,
            context=model.default_context,
            context_draws=None if draws == model.n_past - 1 else draws,
        ),
        variants=_by_precision(variants),
        provenance=Provenance(
            checkpoint_sha256=checkpoint_sha256,
            checkpoint_step=checkpoint.step,
            metrics=checkpoint.metrics,
            data=checkpoint.config.data.name,
            versions={"svg-edge": installed_version(), **{name: _version(name) for name in _TOOLS}},
        ),
        training_data=checkpoint.training_data,
    )


def _by_precision(variants: dict[str, PrecisionVariant]) -> dict[Precision, PrecisionVariant]:
    return {name: variants[name] for name in PRECISIONS if name in variants}


def _bundle_id(checkpoint: Checkpoint) -> str:
    """Identity of the model in the bundle: its weights, its shape, and the opset."""
    digest = hashlib.sha256(checkpoint.config.model.model_dump_json().encode() + str(OPSET).encode())
    for name, value in sorted(checkpoint.weights.items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
