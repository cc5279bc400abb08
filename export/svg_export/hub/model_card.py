"""The model card of a bundle, README.md on the Hub: made of what the manifest says, and of nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from svg_common.printable import printable
from svg_runtime.bundle.manifest import PRECISIONS, ErrorCurve, GraphSpec, Manifest, ParityReport, Precision, PrecisionVariant
from svg_runtime.bundle.remote.addresses import HubAddress

MARK = "<!-- made by svg-export from manifest.json; without this line, svg-export leaves the card alone -->"
_PRIORS = {"learned": "learned", "fixed": "fixed, N(0, I)", "none": "none: one future"}
_METRICS = {
    "psnr_best": ("PSNR, best sample", "dB", 2),
    "psnr_mean": ("PSNR, average sample", "dB", 2),
    "ssim_best": ("SSIM, best sample", "", 4),
    "ssim_mean": ("SSIM, average sample", "", 4),
    "diversity": ("diversity of the samples", "", 5),
}
_OF_TRAINING = {
    "psnr_best": "PSNR of the best sample, dB",
    "psnr_sample": "PSNR of the average sample, dB",
    "psnr_mean": "PSNR of the mean of the samples, dB",
    "psnr_repeat": "PSNR of the last observed frame repeated, dB",
    "gain": "gain of the best sample over repeating, dB",
    "spread": "spread: standard deviation over the samples, per pixel",
}
# What `--bn recalibrate` adds to the metrics; those with the checkpoint's own statistics have names that end in _BEFORE.
_RECALIBRATED, _CLOSED_LOOP, _BEFORE = "bn_recalibrated_sequences", "bn_closed_loop", "_before"
_TEXT = 500  # characters of what comes from a checkpoint
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
_LICENCE = re.compile(r"""license:\s*(?P<quote>["']?)(?P<licence>[a-z0-9][a-z0-9.+-]{0,63})(?P=quote)\s*""")
_LICENCE_ALONE = re.compile(rf"\s*(---\n({_LICENCE.pattern}\n)?---\s*)?")


def model_card(manifest: Manifest, address: HubAddress, licence: str | None) -> str:
    """Return the card in Markdown, with the metadata that the Hub reads before it.

    Args:
        manifest: of the bundle.
        address: where it will lie.
        licence: identifier of the Hub's list, such as mit; None: not stated.
    """
    sections = [
        _metadata(manifest, licence),
        MARK,
        f"# {address.name}\n\n{_summary(manifest)}",
        _use(address),
        _what_it_is(manifest),
        _training_data(manifest),
        _quality(manifest),
        _parity(manifest),
        _files(manifest),
        _how_it_was_made(manifest),
        _limits(),
        _licence(licence),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def licence_of(card: str) -> str | None:
    """The licence in the metadata of a card; None if there is none."""
    lines = card.splitlines()
    if lines[:1] != ["---"]:
        return None
    end = lines.index("---", 1) if "---" in lines[1:] else 0
    found = filter(None, map(_LICENCE.fullmatch, lines[1:end]))
    return next((match["licence"] for match in found), None)


def has_licence_alone(card: str) -> bool:
    """Whether a card says at most what the licence is."""
    return _LICENCE_ALONE.fullmatch(card) is not None


def _metadata(manifest: Manifest, licence: str | None) -> str:
    tags = ["svg-edge", "video-prediction", "video-forecasting", "onnx", f"family-{manifest.model.family}"]
    stated = [f'license: "{licence}"'] if licence else []  # in quotes: to YAML, some words and numbers are not text
    lines = ["library_name: svg-edge", *stated, "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join(["---", *lines, "---"])


def _summary(manifest: Manifest) -> str:
    frame, generation = manifest.frame, manifest.generation
    colour = "gray" if frame.channels == 1 else "colour"
    pace = f", one every {generation.frame_interval_s:g} s" if generation.frame_interval_s else ""
    futures = "the next frames" if manifest.model.prior == "none" else "any number of sampled futures"
    return (
        f"Video forecasting: reads {generation.n_past} frames of {frame.width} x {frame.height} pixels in {colour}{pace}, "
        f"and returns {futures}. A bundle of [svg-edge](https://github.com/svg-edge/svg-edge): ONNX graphs for CPUs and GPUs."
    )


def _use(address: HubAddress) -> str:
    repo = f"hf://{address.repo}" if address.revision == "main" else str(address)
    return f"""## Use it

```sh
pip install 'svg-edge[cpu,hub] @ git+https://github.com/svg-edge/svg-edge'
svg-live --model {repo} --camera 0
```

```python
from svg_runtime import Forecaster
forecaster = Forecaster.open("{repo}", samples=8, horizon=10)
forecaster.observe(frame)  # each frame: (height, width, channels) in [0, 1], float32
futures = forecaster.forecast()  # once forecaster.ready: (samples, steps, height, width, channels)
```

A branch can move. `hf://{address.repo}@COMMIT`, with a commit of the page *Files and versions*, always means the same files."""


def _what_it_is(manifest: Manifest) -> str:
    model, generation, frame = manifest.model, manifest.generation, manifest.frame
    pace = "not known" if generation.frame_interval_s is None else f"{generation.frame_interval_s:g} s"
    rows = [
        ("family", f"`{model.family}`"),
        ("prior", _PRIORS[model.prior] + (f", {model.z_dim} values of noise per sample and step" if model.z_dim else "")),
        ("frames", f"{frame.width} x {frame.height}, {frame.colour_order}, values in [0, 1]"),
        ("observed frames", f"{generation.n_past}, read as a {generation.context}"),
        ("time between frames", pace),
        ("forecast frames in training", str(generation.training_horizon)),
        ("settings", ", ".join(f"{_text(name)} {_value(value)}" for name, value in sorted(model.settings.items())) or "none"),
        ("bundle", f"`{manifest.bundle_id}`"),
    ]
    return "## What it is\n\n" + _table(("property", "value"), rows)


def _training_data(manifest: Manifest) -> str:
    data = manifest.training_data
    if data is None:
        return f"## Trained on\n\n{_text(manifest.provenance.data)}. Its statistics are not known."
    columns = ("of a sequence", "mean", "standard deviation", "1 %", "50 %", "99 %")
    rows = [
        (name, *(f"{value:.4g}" for value in (each.mean, each.std, each.p01, each.p50, each.p99)))
        for name, each in data.statistics.items()
    ]
    return (
        f"## Trained on\n\n{_text(data.description)}.\n\n"
        f"Values in [0, 1], of {data.sequences} training sequences of {data.frames} frames. `svg-live` compares the camera "
        f"with them, and says so when the model does not fit.\n\n{_table(columns, rows)}"
    )


def _quality(manifest: Manifest) -> str:
    parts = ["## How good it is"]
    metrics = manifest.provenance.metrics
    if metrics:
        parts.append(_measured(metrics))
    reduced = [_reduced(name, variant) for name, variant in _variants(manifest) if name != "fp32"]
    if not metrics and not reduced:
        parts.append("Not measured. `svg-eval` measures it on your videos.")
    parts.append("On your own videos: `svg-eval MODEL --data video --data-root VIDEOS/ --test-fraction 1`.")
    return "\n\n".join([*parts, *reduced])


def _measured(metrics: Mapping[str, float]) -> str:
    if _RECALIBRATED not in metrics:
        return "Measured during training, on held-out sequences:\n\n" + _metrics({"value": metrics})
    before = {name.removesuffix(_BEFORE): value for name, value in metrics.items() if name.endswith(_BEFORE)}
    others = (_RECALIBRATED, _CLOSED_LOOP)
    after = {name: value for name, value in metrics.items() if name not in others and not name.endswith(_BEFORE)}
    return (
        "Measured by `svg-export` on held-out sequences, with the statistics of BatchNorm that it estimated anew, and with "
        f"those of the checkpoint:\n\n{_metrics({'anew': after, 'of the checkpoint': before})}"
    )


def _metrics(columns: Mapping[str, Mapping[str, float]]) -> str:
    """A row for each metric; heading of a column -> metrics by name."""
    given = {name for metrics in columns.values() for name in metrics}
    names = [*(name for name in _OF_TRAINING if name in given), *sorted(given - _OF_TRAINING.keys())]
    rows = [
        (_OF_TRAINING.get(name) or _text(name), *(f"{each[name]:.4g}" if name in each else "" for each in columns.values()))
        for name in names
    ]
    return _table(("metric", *columns), rows)


def _reduced(name: str, variant: PrecisionVariant) -> str:
    report = variant.quality or variant.divergence
    assert report is not None  # the reader of bundles has checked it
    intro = (
        f"### {name} against fp32\n\n{report.sequences} sequences x {report.samples} samples x {report.horizon} steps, the "
        f"same noise, computed by {_text(report.computed_by)}. First forecast frame: {report.divergence_psnr_db[0]:.1f} dB "
        "from fp32."
    )
    if variant.quality is None:
        return f"{intro} Quality against the truth was not measured, so no backend chooses {name} by itself."
    rows = []
    for metric, value in variant.quality.metrics.items():
        title, unit, digits = _METRICS[metric]
        rows.append(
            (
                title + (f" ({unit})" if unit else ""),
                f"{value.fp32:.{digits}f}",
                f"{value.reduced:.{digits}f}",
                f"{value.difference:+.{digits}f} ({value.low:+.{digits}f} to {value.high:+.{digits}f})",
                f"{value.tolerance:.{digits}f}",
            )
        )
    columns = ("metric", "fp32", name, f"difference ({report.confidence:.0%} interval)", "largest loss allowed")
    return f"{intro}\n\n{_table(columns, rows)}"


def _parity(manifest: Manifest) -> str:
    reports = {name: variant.parity for name, variant in _variants(manifest) if variant.parity is not None}
    rows = [(name, *_parity_row(report)) for name, report in reports.items()]
    columns = ("graphs", "compared with", "largest difference", "allowed", "frames, first step", "frames, last step")
    return (
        "## Parity\n\nThe graphs against the network that they were made of: the same frames and the same noise, every output "
        f"and every state, over all observed and forecast frames.\n\n{_table(columns, rows)}"
    )


def _parity_row(report: ParityReport) -> tuple[str, ...]:
    reference = {"pytorch": "PyTorch", "fp32": "fp32"}[report.reference]
    tolerance = "not limited" if report.tolerance is None else f"{report.tolerance:.2g}, or what rounding does to PyTorch"
    psnr_db = _frame_curve(report)
    first, last = (f"{psnr_db[0]:.0f} dB", f"{psnr_db[-1]:.0f} dB") if psnr_db else ("", "")
    return reference, f"{report.max_error:.2g}", tolerance, first, last


def _frame_curve(report: ParityReport) -> tuple[float, ...]:
    """PSNR of the forecast frames per step; empty if the report has none."""
    curves: Iterable[ErrorCurve] = (curve for name, curve in report.curves.items() if name.startswith("forecast."))
    return next((curve.psnr_db for curve in curves if curve.psnr_db), ())


def _files(manifest: Manifest) -> str:
    graphs: Mapping[str, GraphSpec] = {
        graph.file: graph for variant in manifest.variants.values() for graph in variant.files.values()
    }
    rows = [(f"`{name}`", f"{graph.bytes / 1e6:.2f} MB", f"`{graph.sha256}`") for name, graph in sorted(graphs.items())]
    precisions = ", ".join(name for name, _ in _variants(manifest))
    return (
        f"## Files\n\nPrecisions: {precisions}. `manifest.json` holds interfaces, hashes and reports; the runtime takes it and "
        f"these graphs, after it has checked them, and nothing else.\n\n{_table(('file', 'size', 'SHA-256'), rows)}"
    )


def _how_it_was_made(manifest: Manifest) -> str:
    made = manifest.provenance
    versions = ", ".join(f"{_text(name)} {_text(version)}" for name, version in sorted(made.versions.items()))
    source = f"By `svg-export`, from a checkpoint at step {made.checkpoint_step} with SHA-256 `{made.checkpoint_sha256}`"
    sequences = made.metrics.get(_RECALIBRATED)
    if sequences is None:
        how = f"{source}. The same checkpoint and versions give the same bytes: {versions}."
    else:
        how = (
            f"{source}, whose statistics of BatchNorm were estimated anew (`--bn recalibrate`), on {sequences:.0f} training "
            f"sequences. Versions: {versions}."
        )
    return f"## How it was made\n\n{how}"


def _limits() -> str:
    return (
        "## Limits\n\nA forecast is a guess, of what is usual in the training data: do not let a person's safety depend on it. "
        "Hashes tell damage, not forgery: take models from people you trust."
    )


def _licence(licence: str | None) -> str:
    if licence is None:
        return "## Licence\n\nNot stated. Ask the author before you use it."
    return f"## Licence\n\n`{licence}`, as its author stated it."


def _variants(manifest: Manifest) -> list[tuple[Precision, PrecisionVariant]]:
    """The precisions in the usual order."""
    return [(name, manifest.variants[name]) for name in PRECISIONS if name in manifest.variants]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _value(value: object) -> str:
    return " x ".join(_text(str(item)) for item in (value if isinstance(value, tuple) else (value,)))


def _text(text: str) -> str:
    """Text from a checkpoint, on one line, which Markdown and HTML take literally."""
    return _SPECIAL.sub(r"\\\1", " ".join(printable(text).split())[:_TEXT])
