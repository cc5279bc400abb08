"""Manifests that are hostile, damaged or contradict themselves are refused before any graph is read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from svg_runtime.bundle.manifest import Manifest, ModelSpec
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BundleError
from tests.conftest import add_bf16_variant, forget_quality, without_quality
from tests.svg_runtime.bundle_helpers import copy_bundle, edit_manifest


@pytest.fixture
def damaged(tiny_bundle, tmp_path):
    """A copy of tiny_bundle whose manifest may be damaged."""
    return copy_bundle(tiny_bundle, tmp_path)


def refusal(bundle) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    message = str(caught.value)
    assert str(bundle) in message
    assert "svg-export" in message or "too large" in message or "install the release" in message
    assert len(message) < 10_000
    return message


def graph(manifest: dict[str, Any], graph_name: str, precision: str = "fp32") -> dict[str, Any]:
    return manifest["variants"][precision]["graphs"][graph_name]


def test_the_manifest_survives_a_round_trip(tiny_bundle):
    content = json.loads((tiny_bundle / "manifest.json").read_text())
    manifest = Bundle.open(tiny_bundle).manifest
    assert manifest.model_dump(mode="json") == content
    assert Manifest.model_validate(content) == manifest
    assert graph(content, "prior")["states"] == [{"initial": "zeros", "input": "state", "output": "state_out"}]
    prior = manifest.variants["fp32"].graphs["prior"]
    assert prior.tensor("state").sized(7) == (2, 7, 24)
    with pytest.raises(KeyError):
        prior.tensor("nothing")


def test_a_manifest_is_immutable(tiny_bundle):
    manifest = Bundle.open(tiny_bundle).manifest
    with pytest.raises(ValueError, match="frozen"):
        manifest.model.z_dim = 5


def objects(value: Any, place: tuple = ()) -> Iterator[tuple]:
    """Places of all JSON objects whose keys are fixed by the schema."""
    if isinstance(value, dict):
        if place[-1:] not in (("variants",), ("graphs",), ("curves",), ("metrics",), ("versions",), ("settings",)):
            yield place
        for key, item in value.items():
            yield from objects(item, (*place, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:1]):
            yield from objects(item, (*place, index))


def at(value: Any, place: tuple) -> Any:
    for key in place:
        value = value[key]
    return value


def test_an_unknown_key_is_refused_wherever_it_is(damaged):
    original = (damaged / "manifest.json").read_text()
    places = list(objects(json.loads(original)))
    assert {("model",), ("variants", "fp32", "graphs", "prior", "states", 0), ()} <= set(places)
    for place in places:
        edit_manifest(damaged, lambda manifest, place=place: at(manifest, place).update(surprise=1))
        message = refusal(damaged)
        assert ".".join([*map(str, place), "surprise"]) in message
        assert "not permitted" in message
        (damaged / "manifest.json").write_text(original)


FRAMES = "forecast.decoder.frame"  # the curve of the forecast frames
OPTIONAL = ("initial", "states", "psnr_db", "computes", "settings", "context", "context_draws")


def test_a_missing_key_is_refused_wherever_it_is(damaged):
    original = (damaged / "manifest.json").read_text()
    required = 0
    for place in objects(json.loads(original)):
        for key in at(json.loads(original), place):
            of_parity = place[-1:] == ("parity",) and key in ("tolerance", "rounding")
            if of_parity or key in (*OPTIONAL, "quality", "schema_version"):
                continue  # optional, or tested below
            edit_manifest(damaged, lambda manifest, place=place, key=key: at(manifest, place).pop(key))
            assert f"{key}: Field required" in refusal(damaged)
            (damaged / "manifest.json").write_text(original)
            required += 1
    assert required > 50


@pytest.mark.parametrize("version", [0, 2, "1", 1.0, True, None, [1], "v" * 100_000])
def test_an_unknown_version_is_refused(damaged, version):
    edit_manifest(damaged, lambda manifest: manifest.update(schema_version=version))
    assert "reads version 1" in refusal(damaged)


def test_a_missing_version_is_refused(damaged):
    edit_manifest(damaged, lambda manifest: manifest.pop("schema_version"))
    assert "schema version None" in refusal(damaged)


NO_JSON = {
    "empty": b"",
    "words": b"this is not JSON",
    "cut": b'{"format": "svg-bundle", "schema_version": 1, ',
    "binary": bytes(range(256)),
    "utf-16": '{"schema_version": 1}'.encode("utf-16"),
    "nesting": b"[" * 1_000_000,
    "objects": b'{"a":' * 500_000,
    "digits": b"9" * 1_000_000,
}


@pytest.mark.parametrize("case", NO_JSON)
def test_invalid_json_is_refused(damaged, case):
    (damaged / "manifest.json").write_bytes(NO_JSON[case])
    assert "not valid JSON" in refusal(damaged)


@pytest.mark.parametrize("content", ["null", "[]", "3", '"text"', "{}"])
def test_json_that_is_not_a_manifest_is_refused(damaged, content):
    (damaged / "manifest.json").write_text(content)
    assert "schema version None" in refusal(damaged)


def test_deep_nesting_inside_a_manifest_is_refused(damaged):
    deep: list = []
    for _ in range(500):
        deep = [deep]
    edit_manifest(damaged, lambda manifest: manifest["provenance"].update(metrics=deep))
    assert "provenance.metrics" in refusal(damaged)


def test_a_huge_manifest_is_refused_unread(damaged):
    with (damaged / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse: one tebibyte
    assert "too large" in refusal(damaged)


def test_a_huge_key_is_shortened_in_the_message(damaged):
    edit_manifest(damaged, lambda manifest: manifest.update({"k" * 3_000_000: 1}))
    assert "kkk" in refusal(damaged)


def test_a_manifest_that_is_not_a_file_is_refused(damaged):
    file = damaged / "manifest.json"
    for make in (
        os.mkfifo,
        os.mkdir,
        lambda path: os.symlink("/dev/zero", path),
        lambda path: os.symlink("manifest.json", path),
    ):
        if file.is_dir():
            file.rmdir()
        else:
            file.unlink()
        make(file)
        assert "has no manifest.json" in refusal(damaged)


PATHS = [
    "../outside.onnx",
    "fp32/../../outside.onnx",
    "/etc/passwd",
    "fp32\\encoder.onnx",
    "C:encoder.onnx",
    "",
    "..",
    "fp32//encoder.onnx",
    "fp32/enc\0oder.onnx",
    "fp32/encoder.onnx\n",
    "fp32/\ud800.onnx",
    "a" * 100_000,
    "a/" * 200 + "a",
]


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_paths_that_leave_the_bundle_are_refused(damaged, path):
    edit_manifest(damaged, lambda manifest: graph(manifest, "encoder").update(file=path))
    assert "variants.fp32.graphs.encoder.file: not a plain path inside the bundle" in refusal(damaged)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("format",), "onnx-bundle"),
        (("bundle_id",), "XYZ"),
        (("model", "family"), "SVG/../LP"),
        (("model", "settings"), {"nf": {"deep": 1}}),
        (("model", "settings"), {"learning_rate": float("nan")}),
        (("model", "settings"), {"learning_rate": float("inf")}),
        (("model", "settings"), {"backbone": "x" * 1_000_000}),
        (("model", "settings"), {"x" * 1_000_000: 1}),
        (("model", "settings"), {"hidden": [1] * 1000}),
        (("model", "settings"), {f"s{index}": 1 for index in range(65)}),
        (("generation", "context"), "tape"),
        (("generation", "context_draws"), -1),
        (("model", "z_dim"), 0),
        (("model", "z_dim"), "many"),
        (("model", "z_dim"), 1 << 40),
        (("frame", "channels"), 2),
        (("frame", "colour_order"), "RGB"),
        (("frame", "range"), [-1.0, 1.0]),
        (("frame", "range"), [0.0, 255.0]),
        (("generation", "n_past"), 1),
        (("generation", "n_past"), 10**6),
        (("generation", "skip_lag"), 2),
        (("generation", "frame_interval_s"), 0.0),
        (("generation", "frame_interval_s"), -1.0),
        (("generation", "frame_interval_s"), float("inf")),
        (("generation", "frame_interval_s"), float("nan")),
        (("generation", "frame_interval_s"), 1e-300),
        (("generation", "frame_interval_s"), 9e-5),
        (("generation", "frame_interval_s"), 129_601.0),
        (("variants", "fp32", "parity", "max_error"), float("nan")),
        (("variants", "fp32", "parity", "max_error"), float("inf")),
        (("variants", "fp32", "parity", "tolerance"), float("inf")),
        (("variants", "fp32", "parity", "tolerance"), float("nan")),
        (("variants", "fp32", "parity", "tolerance"), -1e-4),
        (("variants", "fp32", "parity", "tolerance"), 0.011),
        (("variants", "fp32", "parity", "tolerance"), None),
        (("variants", "fp32", "parity", "rounding"), [float("inf")]),
        (("variants", "fp32", "parity", "rounding"), [1e-6, float("nan")]),
        (("variants", "fp32", "parity", "rounding"), [1.01]),
        (("variants", "fp32", "parity", "rounding"), [-1e-6]),
        (("variants", "fp16", "parity", "max_error"), float("inf")),
        (("variants", "fp16", "parity", "tolerance"), 1e9),
        (("provenance", "data"), "\ud800"),
        (("provenance", "versions"), {"torch": "2.\udcff"}),
        (("provenance", "versions"), {"to\ud800rch": "2.9"}),
        (("provenance", "metrics"), {"psnr\ud800": 1.0}),
        (("variants", "fp32", "parity", "provider"), "\ud800"),
        (("variants", "fp32", "parity", "curves"), {"forecast\ud800": {"max_abs": [0.0]}}),
        (("variants", "fp32", "parity", "curves"), {}),
        (("variants", "fp32", "parity", "curves", FRAMES, "psnr_db", 0), float("nan")),
        (("variants", "fp32", "parity", "curves", FRAMES, "psnr_db", 0), float("inf")),
        (("variants", "fp16", "quality", "computed_by"), "\ud800"),
        (("variants", "fp16", "quality", "data"), "\ud800"),
        (("model", "settings"), {"backbone": "\ud800"}),
        (("provenance", "data"), "x" * 100_000),
        (("variants", "fp32", "graphs", "prior", "sha256"), "0" * 63),
        (("variants", "fp32", "graphs", "prior", "bytes"), -5),
        (("variants", "fp32", "graphs", "prior", "inputs", 0, "dtype"), "int8"),
        (("variants", "fp32", "graphs", "prior", "inputs", 0, "shape"), ["time", 16]),
        (("variants", "fp32", "graphs", "prior", "inputs", 0, "shape"), ["batch", -16]),
        (("variants", "fp32", "graphs", "prior", "inputs", 0, "shape"), ["batch", *[1] * 8]),
        (("variants", "fp32", "graphs", "prior", "inputs", 0, "shape"), ["batch", *[65536] * 40]),
        (("variants", "fp32", "graphs", "prior", "inputs", 0, "shape"), ["batch", 65536, 4097]),
        (("variants", "fp32", "graphs", "prior", "inputs", 0, "name"), ""),
        (("variants", "fp32", "graphs", "prior", "inputs", 0, "name"), "h" * 100_000),
        (("variants", "fp32", "graphs", "prior", "states", 0, "output"), "h" * 100_000),
        (("variants", "fp32", "graphs", "prior", "states", 0, "initial"), "ones"),
        (("variants", "fp16", "quality", "split"), "train"),
        (("variants", "fp16", "quality", "sequences"), 1),
        (("variants", "fp16", "quality", "confidence"), 1.0),
        (("variants", "fp16", "quality", "divergence_psnr_db", 3), float("nan")),
        (("variants", "fp16", "quality", "metrics", "psnr_mean", "high"), float("inf")),
        (("variants", "fp16", "quality", "metrics", "psnr_mean", "low"), 9.0),
        (("variants", "fp16", "quality", "metrics", "psnr_mean", "tolerance"), -0.1),
    ],
)
def test_values_outside_their_range_are_refused(damaged, place, value):
    edit_manifest(damaged, lambda manifest: at(manifest, place[:-1]).__setitem__(place[-1], value))
    where = [str(part) for part in place]
    message = refusal(damaged)
    assert any(
        ".".join(where[:depth]) + ":" in message or ".".join(where[:depth]) + "." in message for depth in (1, len(where))
    )


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("generation", "n_past"), "5"),
        (("generation", "n_past"), 5.0),
        (("generation", "skip_lag"), True),
        (("generation", "skip_lag"), 0.0),
        (("generation", "last_frame_skip"), "yes"),
        (("generation", "last_frame_skip"), 0),
        (("generation", "frame_interval_s"), "0.1"),
        (("generation", "frame_interval_s"), True),
        (("frame", "channels"), 1.0),
        (("frame", "channels"), True),
        (("frame", "range"), ["0", "1"]),
        (("frame", "range"), [False, True]),
        (("variants", "fp32", "graphs", "prior", "bytes"), "1000"),
        (("variants", "fp32", "graphs", "prior", "inputs", 0, "shape"), ["batch", 16.0]),
        (("variants", "fp32", "graphs", "prior", "inputs", 0, "shape"), ["batch", "16"]),
        (("variants", "fp32", "parity", "max_error"), "0"),
        (("variants", "fp32", "parity", "rounding"), ["0"]),
        (("variants", "fp16", "quality", "divergence_psnr_db", 3), "60"),
        (("training_data",), {"description": "x", "sequences": "1", "frames": 2, "statistics": {}}),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_and_not_guessed(damaged, place, value):
    """Readers in other languages refuse it: one bundle is readable everywhere, or nowhere."""
    edit_manifest(damaged, lambda manifest: at(manifest, place[:-1]).__setitem__(place[-1], value))
    message = refusal(damaged)
    assert f"{'.'.join(map(str, place))}" in message
    assert "given " in message


PARITY_CURVES = {
    "empty": ({"observe.encoder.h": {"max_abs": []}}, "max_abs is empty"),
    "another length": ({FRAMES: {"max_abs": [0.0] * 10, "psnr_db": [120.0] * 9}}, "psnr_db has 9 values, but max_abs has 10"),
    "no PSNR": ({FRAMES: {"max_abs": [0.0] * 10, "psnr_db": []}}, "psnr_db has 0 values, but max_abs has 10"),
    "short": ({FRAMES: {"max_abs": [0.0] * 9}}, "has 9 values for 10 forecast frames"),
    "long": ({"fused.forecast.step.frame": {"max_abs": [0.0] * 11}}, "has 11 values for 10 forecast frames"),
    "observed": ({"observe.encoder.h": {"max_abs": [0.0] * 4}}, "has 4 values for 3 observed frames"),
}


@pytest.mark.parametrize(("curves", "reason"), PARITY_CURVES.values(), ids=PARITY_CURVES)
def test_curves_that_contradict_their_parity_report_are_refused(damaged, curves, reason):
    edit_manifest(damaged, lambda manifest: manifest["variants"]["fp32"]["parity"].update(curves=curves))
    assert reason in refusal(damaged)


def test_whole_numbers_are_read_where_decimals_are_expected(damaged):
    def change(manifest):
        manifest["frame"]["range"] = [0, 1]
        manifest["variants"]["fp32"]["parity"]["max_error"] = 0

    edit_manifest(damaged, change)
    assert Bundle.open(damaged).manifest.frame.range == (0.0, 1.0)


def test_a_name_that_stands_twice_is_refused(damaged):
    file = damaged / "manifest.json"
    file.write_text(file.read_text().replace('"n_past":', '"n_past": 3, "n_past":', 1))
    assert "n_past: given 2 times; expected each name once" in refusal(damaged)


@pytest.mark.parametrize("interval_s", [1e-4, 60, 86_400, 129_600, None])
def test_steps_from_high_speed_to_time_lapse_are_read(damaged, interval_s):
    edit_manifest(damaged, lambda manifest: manifest["generation"].update(frame_interval_s=interval_s))
    assert Bundle.open(damaged).manifest.generation.frame_interval_s == interval_s


def test_an_infinite_rounding_does_not_switch_the_parity_gate_off(damaged):
    report = {"max_error": 1e9, "rounding": [float("inf")]}
    edit_manifest(damaged, lambda manifest: manifest["variants"]["fp32"]["parity"].update(report))
    assert "variants.fp32.parity.rounding.0: Input should be a finite number" in refusal(damaged)


def test_a_gate_without_a_tolerance_is_none_for_fp32(damaged):
    edit_manifest(damaged, lambda manifest: manifest["variants"]["fp32"]["parity"].update(max_error=1e9, tolerance=None))
    assert "variants.fp32.parity.tolerance: expected a number" in refusal(damaged)


def test_reports_as_every_exporter_wrote_them_are_read(damaged):
    """fp16 has an error that its quality gate judges, and older bundles name no rounding."""
    edit_manifest(damaged, lambda manifest: manifest["variants"]["fp32"]["parity"].pop("rounding"))
    edit_manifest(damaged, lambda manifest: manifest["variants"]["fp16"]["parity"].update(max_error=3.5))
    parity = {name: variant.parity for name, variant in Bundle.open(damaged).manifest.variants.items()}
    assert parity["fp32"].tolerance == 1e-4
    assert parity["fp16"].tolerance is None


@pytest.mark.parametrize("side", ["inputs", "outputs", "states"])
def test_more_tensors_than_any_model_has_are_refused(damaged, side):
    def crowd(manifest):
        spec = graph(manifest, "prior")
        spec[side] = spec[side][:1] * 1025

    edit_manifest(damaged, crowd)
    assert f"variants.fp32.graphs.prior.{side}: Tuple should have at most 1024 items" in refusal(damaged)


def test_tensors_that_do_not_fit_into_memory_together_are_refused(damaged):
    large = [{"name": f"x{index}", "dtype": "float32", "shape": ["batch", 65536, 4096]} for index in range(2)]
    edit_manifest(damaged, lambda manifest: graph(manifest, "prior")["outputs"].extend(large))
    assert "variants.fp32.graphs.prior: its tensors have 53687" in refusal(damaged)


def test_a_long_table_of_wrong_settings_costs_one_message(damaged):
    settings = {f"s{index}": {"deep": 1} for index in range(10_000)}
    edit_manifest(damaged, lambda manifest: manifest["model"].update(settings=settings))
    message = refusal(damaged)
    assert "model.settings: 10000 settings, expected at most 64" in message
    assert message.count("model.settings") == 1


def test_settings_of_every_type_are_kept(damaged):
    settings = {
        "layer_norm": True, "patch_size": 4, "decouple_beta": 0.1, "cell": "mim", "hidden": [64] * 4, "history": None,
        "rates": [0.5, 1.0, 2, 1e-7], "parts": ["a", "b"], "mixed": [True, 1, 1.0, "1"], "none": [], "whole": 1.0,
    }  # fmt: skip
    edit_manifest(damaged, lambda manifest: manifest["model"].update(settings=settings))
    kept = Bundle.open(damaged).manifest.model_dump(mode="json")["model"]["settings"]
    assert repr(kept) == repr(settings)  # 1, 1.0 and true are equal, and not the same


def test_a_long_list_of_wrong_values_costs_one_message(damaged):
    edit_manifest(damaged, lambda manifest: manifest["model"].update(settings={"hidden": [{}] * 100_000}))
    message = refusal(damaged)
    assert "model.settings: 'hidden' has 100000 values, expected at most 200" in message
    assert message.count("model.settings") == 1


def test_a_bundle_without_variants_is_refused(damaged):
    edit_manifest(damaged, lambda manifest: manifest["variants"].clear())
    assert "variants" in refusal(damaged)


def test_an_unknown_precision_is_refused(damaged):
    edit_manifest(damaged, lambda manifest: manifest["variants"].update(int4=manifest["variants"]["fp16"]))
    assert "variants.int4" in refusal(damaged)


def quality(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["variants"]["fp16"]["quality"]


INVALID_REPORTS = {
    "no report": (lambda m: m["variants"]["fp16"].update(quality=None), "fp16.quality: expected a report for every reduced"),
    "a report of fp32": (
        lambda m: m["variants"]["fp32"].update(quality=quality(m)),
        "fp32.quality: expected a report for every reduced",
    ),
    "no parity": (lambda m: m["variants"]["fp16"].update(parity=None), "fp16.parity: expected a report, except for bf16"),
    "a first step too far": (
        lambda m: quality(m)["divergence_psnr_db"].__setitem__(0, 44.9),
        "fp16.quality: does not pass its gate: the first forecast frame is 44.9 dB from fp32, expected at least 45 dB",
    ),
    "a loss": (
        lambda m: quality(m)["metrics"]["psnr_best"].update(difference=-0.2, low=-0.3, high=-0.06),
        "fp16.quality: does not pass its gate: psnr_best falls",
    ),
    "a missing figure": (lambda m: quality(m)["metrics"].pop("diversity"), "fp16.quality: metrics are"),
    "a missing step": (lambda m: quality(m)["divergence_psnr_db"].pop(), "fp16.quality: divergence_psnr_db has 9"),
}


@pytest.mark.parametrize("case", INVALID_REPORTS)
def test_a_reduced_precision_without_a_passed_gate_is_refused(damaged, case):
    change, message = INVALID_REPORTS[case]
    edit_manifest(damaged, change)
    assert message in refusal(damaged)


def test_an_uncertain_or_invisible_loss_passes_the_gate(damaged):
    for low, high in ((-3.0, 0.001), (-0.02, -0.01), (-3.0, -0.05)):
        values = {"difference": (low + high) / 2, "low": low, "high": high}
        edit_manifest(damaged, lambda m, values=values: quality(m)["metrics"]["psnr_best"].update(values))
        Bundle.open(damaged)


def test_bf16_must_use_the_graphs_of_fp32(tiny_bundle, tmp_path):
    with_bf16 = add_bf16_variant(tiny_bundle, tmp_path)
    opened = Bundle.open(with_bf16)
    assert opened.graphs("bf16") == opened.graphs("fp32")
    assert opened.manifest.variants["bf16"].parity is None
    edit_manifest(with_bf16, lambda m: m["variants"]["bf16"].update(graphs=m["variants"]["fp16"]["graphs"]))
    message = refusal(with_bf16)
    assert "variants.bf16.graphs: expected the graphs of fp32" in message
    assert "variants.bf16.graphs.encoder.outputs: ('skip_0'" in message  # float16, which only fp16 may have
    edit_manifest(with_bf16, lambda m: m["variants"].pop("fp32"))
    assert "variants.bf16.graphs: expected the graphs of fp32" in refusal(with_bf16)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("graph_name", ["encoder", "skip", "posterior", "prior", "predictor", "decoder"])
def test_every_graph_must_be_present(damaged, graph_name, precision):
    edit_manifest(damaged, lambda manifest: manifest["variants"][precision]["graphs"].pop(graph_name))
    assert f"variants.{precision}.graphs: the graphs are" in refusal(damaged)


def test_an_unknown_graph_is_refused(damaged):
    edit_manifest(damaged, lambda m: m["variants"]["fp32"]["graphs"].update(extra=graph(m, "prior")))
    assert "'extra'" in refusal(damaged)


# dimension -> graph and tensors that contradict it
DIMENSIONS = {
    ("model", "z_dim", 10): "prior.outputs: ('mu'",
    ("frame", "height", 128): "decoder.outputs: ('frame'",
    ("frame", "width", 1): "encoder.inputs: ('frame'",
}


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_dimensions_that_contradict_the_graphs_are_refused(damaged, dimension):
    table, name, value = dimension
    edit_manifest(damaged, lambda manifest: manifest[table].update({name: value}))
    message = refusal(damaged)
    assert f"variants.fp32.graphs.{DIMENSIONS[dimension]}" in message
    assert f"variants.fp16.graphs.{DIMENSIONS[dimension]}" in message


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"prior": "fixed"}, "expected ['posterior'] of posterior and prior, as the prior is 'fixed'"),
        ({"prior": "fixed", "z_dim": 0}, "prior fixed with z_dim 0"),
        ({"prior": "none"}, "prior none with z_dim 4"),
        ({"prior": "none", "z_dim": 0}, "expected [] of posterior and prior"),
        ({"prior": "guessed"}, "model.prior"),
    ],
    ids=str,
)
def test_parts_that_contradict_the_prior_are_refused(damaged, change, problem):
    edit_manifest(damaged, lambda manifest: manifest["model"].update(change))
    assert problem in refusal(damaged)


def older_model(manifest: dict[str, Any]) -> dict[str, Any]:
    """`model` of a manifest, as bundles had it when SVG was the only family."""
    model = manifest["model"]
    rest = {name: value for name, value in model["settings"].items() if name in OLDER_SETTINGS}
    return {"family": "svg", "prior": model["prior"], "z_dim": model["z_dim"], "skips": 4, **rest}


OLDER_SETTINGS = ("backbone", "nf", "g_dim", "rnn_size", "predictor_layers", "posterior_layers", "prior_layers")


@pytest.mark.parametrize(
    ("variant", "parts", "prior"),
    [
        ("lp", {}, "learned"),
        ("fp", {"prior_layers": 0}, "fixed"),
        ("det", {"prior_layers": 0, "posterior_layers": 0, "z_dim": 0}, "none"),
    ],
)
def test_older_bundles_with_variant_instead_of_prior_stay_readable(tiny_bundle, variant, parts, prior):
    spec = older_model(json.loads((tiny_bundle / "manifest.json").read_text()))
    del spec["prior"]
    assert ModelSpec.model_validate({**spec, **parts, "variant": variant}).prior == prior


def test_an_older_bundle_opens(damaged):
    def as_older_exporters_wrote_it(manifest):
        manifest["model"] = older_model(manifest)
        manifest["model"]["variant"] = {"learned": "lp"}[manifest["model"].pop("prior")]
        del manifest["generation"]["context"], manifest["generation"]["context_draws"]
        for variant in manifest["variants"].values():
            variant["parity"]["min_first_step_psnr_db"] = None
            for spec in variant["graphs"].values():
                del spec["computes"]

    new = Bundle.open(damaged).manifest
    edit_manifest(damaged, as_older_exporters_wrote_it)
    old = Bundle.open(damaged).manifest
    assert old.model.prior == "learned"
    assert old.context_draws == old.generation.n_past - 1
    for precision, variant in new.variants.items():
        assert old.variants[precision].graphs == variant.graphs  # also what each computes in


@pytest.mark.parametrize("given", [{"variant": "lp"}, {"variant": "vae", "prior": None}])
def test_variant_beside_prior_or_unknown_is_refused(damaged, given):
    edit_manifest(damaged, lambda manifest: manifest["model"].update(given))
    assert "model.variant" in refusal(damaged)


def test_a_prior_graph_without_a_learned_prior_is_refused(damaged):
    edit_manifest(damaged, lambda manifest: manifest["model"].update(prior="fixed"))
    assert "'prior'" in refusal(damaged)


def test_another_number_of_channels_contradicts_the_graphs(damaged):
    edit_manifest(damaged, lambda manifest: manifest["frame"].update(channels=3, colour_order="RGB"))
    assert "encoder.inputs: ('frame'" in refusal(damaged)


CHANGES = {
    "a static batch": ("encoder", lambda g: g["inputs"][0]["shape"].__setitem__(0, 1), "encoder.inputs"),
    "a second dynamic axis": ("encoder", lambda g: g["outputs"][1]["shape"].__setitem__(1, "batch"), "encoder.outputs"),
    "a skip of another size": ("skip", lambda g: g["inputs"][2]["shape"].__setitem__(3, 9), "skip.inputs: ('skip_2'"),
    "a condition of another size": (
        "decoder",
        lambda g: g["inputs"][1]["shape"].__setitem__(1, 2),
        "decoder.inputs: ('cond_0'",
    ),
    "a condition at batch B only": ("decoder", lambda g: g["inputs"][1]["shape"].__setitem__(0, "batch"), "decoder.inputs"),
    "half precision in fp32": ("encoder", lambda g: g["outputs"][1].update(dtype="float16"), "encoder.outputs: ('skip_0'"),
    "half precision state": ("prior", lambda g: g["inputs"][1].update(dtype="float16"), "prior.inputs: ('state'"),
    "another name": ("prior", lambda g: g["outputs"][0].update(name="mean"), "prior.outputs: ('mean'"),
    "an output twice": ("prior", lambda g: g["outputs"].append(g["outputs"][0]), "prior.outputs: 4 tensors"),
    "no outputs": ("skip", lambda g: g["outputs"].clear(), "skip.outputs: 0 tensors"),
    "an input without a source": (
        "prior",
        lambda g: g["inputs"].append({"name": "t", "dtype": "float32", "shape": [1]}),
        "prior.inputs",
    ),
    "a state that is not carried": ("predictor", lambda g: g["states"].clear(), "predictor.states"),
    "a state of a graph without": (
        "encoder",
        lambda g: g["states"].append({"input": "frame", "output": "h"}),
        "encoder.states",
    ),
    "crossed states": ("prior", lambda g: g["states"][0].update(output="mu"), "prior.states: ('state', 'mu'"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_graphs_that_contradict_each_other_are_refused(damaged, case):
    graph_name, change, expected = CHANGES[case]
    edit_manifest(damaged, lambda manifest: change(graph(manifest, graph_name)))
    message = refusal(damaged)
    assert f"variants.fp32.graphs.{expected}" in message
    assert "fp16" not in message


def test_half_precision_feature_maps_are_allowed_only_in_fp16(tiny_bundle):
    graphs = Bundle.open(tiny_bundle).manifest.variants["fp16"].graphs
    assert {spec.dtype for spec in graphs["skip"].inputs} == {"float16"}
    assert {spec.dtype for spec in (*graphs["predictor"].inputs, *graphs["predictor"].outputs)} == {"float32"}


def test_a_variant_whose_quality_was_not_measured_is_readable_and_says_so(damaged):
    forget_quality(damaged, "fp16")
    manifest = Bundle.open(damaged).manifest
    assert manifest.model_dump(mode="json") == json.loads((damaged / "manifest.json").read_text())
    assert manifest.quality_is_known("fp32")
    assert not manifest.quality_is_known("fp16")
    assert not manifest.quality_is_known("bf16")
    assert manifest.quality_note("fp32") is manifest.quality_note("bf16") is None
    note = manifest.quality_note("fp16")
    assert "quality of fp16 against the truth was not measured" in note
    assert "svg-export CHECKPOINT --fp16 --data video --data-root DIR" in note


def test_measured_quality_leaves_the_manifest_as_it_was(tiny_bundle):
    """Releases that do not know the key refuse it."""
    manifest = Bundle.open(tiny_bundle).manifest
    assert manifest.quality_is_known("fp16")
    assert manifest.quality_note("fp16") is None
    assert all("divergence" not in variant for variant in manifest.model_dump(mode="json")["variants"].values())


DIVERGENCES = {
    "beside quality": (lambda v: v["fp16"].update(divergence=without_quality(v["fp16"]["quality"])), "or else one as"),
    "of fp32": (lambda v: v["fp32"].update(divergence=without_quality(v["fp16"]["quality"])), "and none for fp32"),
    "too far from fp32": (
        lambda v: v["fp16"]["divergence"]["divergence_psnr_db"].__setitem__(0, 44.9),
        "fp16.divergence: does not pass its gate: the first forecast frame is 44.9 dB from fp32",
    ),
    "lost diversity": (
        lambda v: v["fp16"]["divergence"]["diversity"].update(difference=-0.2, low=-0.3, high=-0.1, tolerance=0.05),
        "fp16.divergence: does not pass its gate: diversity falls",
    ),
    "a missing step": (lambda v: v["fp16"]["divergence"]["divergence_psnr_db"].pop(), "divergence_psnr_db has 9 values"),
    "measured after all": (lambda v: v["fp16"]["divergence"].update(quality_against_truth="good"), "'not measured'"),
}


@pytest.mark.parametrize("case", DIVERGENCES)
def test_divergence_reports_are_checked(damaged, case):
    change, expected = DIVERGENCES[case]
    if case not in ("beside quality", "of fp32"):
        forget_quality(damaged, "fp16")
    edit_manifest(damaged, lambda manifest: change(manifest["variants"]))
    assert expected in refusal(damaged)
