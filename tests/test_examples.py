"""Every example runs as its first lines say, and those without our code return the Forecaster's frames."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from svg_common.digits import digit_stream
from svg_runtime import Forecaster
from svg_runtime.bundle.reader import EMBEDDED_MODEL, Bundle
from tests.families import SAMPLE
from tests.forecast_case import ForecastCase
from tests.sample import sampled
from tests.svg_runtime.bundle_helpers import edit_manifest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SAMPLES, HORIZON = 3, 10
TOLERANCE = 1e-4
IGNORED = shutil.ignore_patterns("node_modules")


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_example(name: str, folder: Path, *arguments: str) -> str:
    return run([sys.executable, str(EXAMPLES / name), *arguments], folder)


@pytest.fixture(params=["embedded", "tiny_bundle", "following_bundle"])
def bundle(request) -> Path:
    """A learned prior, with skip_lag 0, with skip_lag 1, and with skips that follow the forecast."""
    return EMBEDDED_MODEL if request.param == "embedded" else request.getfixturevalue(request.param)


def make_input(bundle: Path) -> dict[str, np.ndarray]:
    manifest, rng, draw = Bundle.open(bundle).manifest, np.random.default_rng(5), digit_stream(3)
    n_past, z_dim = manifest.generation.n_past, manifest.model.z_dim
    return {
        "frames": np.stack([draw() for _ in range(n_past)])[..., None],
        "context_noise": rng.standard_normal((n_past - 1, SAMPLES, z_dim), np.float32),
        "noise": rng.standard_normal((HORIZON, SAMPLES, z_dim), np.float32),
    }


def forecast(bundle: Path, frames: np.ndarray, context_noise: np.ndarray, noise: np.ndarray) -> np.ndarray:
    with Forecaster.open(bundle, backend="cpu", precision="fp32", samples=SAMPLES, horizon=HORIZON) as forecaster:
        for frame in frames:
            forecaster.observe(frame)
        return forecaster.forecast(noise=noise, context_noise=context_noise)


@pytest.mark.parametrize("arguments", [[], ["--model", "camera"]], ids=["digits", "camera"])
def test_forecasting_a_video_writes_a_strip_of_truth_and_samples(tmp_path, arguments):
    assert "forecast.png" in run_example("00_forecast_video.py", tmp_path, *arguments)
    strip = cv2.imread(str(tmp_path / "forecast.png"))
    assert strip.shape == (5 * 64, 10 * 64, 3)
    assert all(strip[row * 64 : (row + 1) * 64].max() > 200 for row in range(5))  # a digit in every row


def test_a_strip_that_cannot_be_written_ends_without_a_traceback(tmp_path):
    example = runpy.run_path(str(EXAMPLES / "00_forecast_video.py"))
    for name in ("strip.foo", "missing/strip.png"):
        with pytest.raises(SystemExit, match=rf"^cannot write {tmp_path / name}\n  expected .* such as forecast\.png$"):
            example["write_strip"](tmp_path / name, [np.zeros((1, 8, 8, 3))])


def test_a_video_that_is_too_short_is_refused_in_one_line(tmp_path):
    write = cv2.VideoWriter(str(tmp_path / "short.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    for _ in range(6):
        write.write(np.zeros((64, 64, 3), np.uint8))
    write.release()
    command = [sys.executable, str(EXAMPLES / "00_forecast_video.py"), "short.avi"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr == "short.avi has 6 frames at the model's rate\n  expected at least 15\n"


@pytest.mark.parametrize(
    ("arguments", "first_surprise"), [([], 1), pytest.param(["camera"], 6, marks=pytest.mark.slow)], ids=["digits", "camera"]
)
def test_the_own_loop_reports_surprise_quality_and_spread(tmp_path, arguments, first_surprise):
    """A model that predicts frames from frames has a surprise once it has a usual error."""
    lines = run_example("01_own_loop.py", tmp_path, *arguments).splitlines()[1:]
    assert len(lines) == 40
    assert not any("surprise" in line for line in lines[:first_surprise])
    assert all("surprise" in line for line in lines[first_surprise:])
    assert all("spread" in line for line in lines[4:])
    assert all("forecast 5 frames ago" in line for line in lines[9:])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("00_forecast_video.py", "expected a video file"),
        ("01_own_loop.py", "expected a *.svgb folder"),
        ("02_plain_onnxruntime.py", "expected a *.svgb folder"),
        ("04_own_source.py", "expected a *.svgb folder"),
    ],
)
def test_a_wrong_argument_ends_without_a_traceback(tmp_path, monkeypatch, name, expected):
    monkeypatch.setattr("sys.argv", [name, str(tmp_path / "missing")])
    with pytest.raises(SystemExit, match=re.escape(expected)):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_the_configuration_runs_its_demo(tmp_path):
    shutil.copy(EXAMPLES / "live.toml", tmp_path)
    program = "import sys; from svg_runtime.live.cli import main; sys.argv[0] = 'svg-live'; main()"
    options = ["--config", "live.toml", "--only", "demo", "--headless", "--max-frames", "8", "--backend", "cpu"]
    run([sys.executable, "-c", program, *options], tmp_path)
    assert json.loads((tmp_path / "live.json").read_text(encoding="utf-8"))["frames"]["seen"] == 8


def compare_plain(bundle: Path) -> None:
    spec = importlib.util.spec_from_file_location("plain_onnxruntime", EXAMPLES / "02_plain_onnxruntime.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    given = make_input(bundle)
    np.testing.assert_allclose(example.forecast(bundle, **given), forecast(bundle, **given), rtol=0, atol=TOLERANCE)


def test_plain_onnxruntime_gives_the_frames_of_the_forecaster(bundle):
    compare_plain(bundle)


def test_plain_onnxruntime_does_so_without_a_learned_prior(unlearned_bundle):
    compare_plain(unlearned_bundle)


def fp32_graphs(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["variants"]["fp32"]["graphs"]


def prior_is(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["model"].update(prior=name)


# what the manifest of a bundle with a learned prior is changed to -> part of the message
CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no prior graph": (lambda m: m["variants"]["fp32"]["graphs"].pop("prior"), "prior"),
    "a prior graph too many": (prior_is("fixed"), "prior fixed"),
    "an unknown prior": (prior_is("guessed"), "prior guessed"),
    "colours": (lambda m: m["frame"].update(colour_order="BGR"), "BGR"),
    "range": (lambda m: m["frame"].update(range=[0, 255]), "255"),
    "schema": (lambda m: m.update(schema_version=2), "2"),
    "a text": (lambda m: m["generation"].update(n_past="5"), "n_past"),
    "a lag": (lambda m: m["generation"].update(skip_lag=9), "skip_lag"),
    "a fraction": (lambda m: m["generation"].update(n_past=5.5), "n_past"),
    "no table": (lambda m: m.pop("generation"), "no table generation"),
    "a changed graph": (lambda m: m["variants"]["fp32"]["graphs"]["prior"].update(sha256="0" * 64), "prior.onnx changed"),
}


def contradicting(case: str, folder: Path) -> tuple[Path, str]:
    change, message = CONTRADICTIONS[case]
    copy = shutil.copytree(EMBEDDED_MODEL, folder / "digits.svgb")
    edit_manifest(copy, change)
    return copy, message


# what the manifest's encoder is changed to, in place of what it has -> part of the message
ENCODERS: list[tuple[Any, str]] = [
    (None, r"^the manifest has no table variants\.fp32\.graphs\.encoder; "),
    ({"file": None}, r": the graph encoder lacks file; "),
    ({"sha256": 5, "outputs": None}, r": the graph encoder lacks sha256, outputs; "),
    ({"inputs": [{"name": "frame"}]}, r": the graph encoder lacks names or shapes; "),
    ({"outputs": ["h"]}, r": the graph encoder lacks names or shapes; "),
]


@pytest.mark.parametrize(("change", "message"), ENCODERS)
def test_plain_onnxruntime_refuses_a_graph_of_which_something_is_not_said(tmp_path, change, message):
    graphs = fp32_graphs(json.loads((EMBEDDED_MODEL / "manifest.json").read_text(encoding="utf-8")))
    graphs["encoder"] = change and {**graphs["encoder"], **change}
    manifest = {"schema_version": 1, "variants": {"fp32": {"graphs": graphs}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    example = runpy.run_path(str(EXAMPLES / "02_plain_onnxruntime.py"))
    with pytest.raises(SystemExit, match=message):
        example["read_manifest"](tmp_path)


def test_plain_onnxruntime_refuses_a_file_that_is_no_graph(tmp_path):
    (tmp_path / "encoder.onnx").write_bytes(b"no graph")
    spec = {"file": "encoder.onnx", "sha256": hashlib.sha256(b"no graph").hexdigest()}
    example = runpy.run_path(str(EXAMPLES / "02_plain_onnxruntime.py"))
    with pytest.raises(SystemExit, match=rf"^cannot open encoder\.onnx of {tmp_path}: .*; export the bundle again$"):
        example["open_graph"](tmp_path, spec)


def fail(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("[]", r" has schema version None; expected 1$"),
        ('{"schema_version": 1}', r"^the manifest has no table variants\.fp32\.graphs; export the bundle again$"),
        (
            '{"schema_version": 1, "variants": {"fp32": {"graphs": {"predictor": {}}}}}',
            r" has other graphs: predictor; expected",
        ),
    ],
)
def test_plain_onnxruntime_refuses_a_manifest_without_tables(tmp_path, manifest, message):
    (tmp_path / "manifest.json").write_text(manifest)
    example = runpy.run_path(str(EXAMPLES / "02_plain_onnxruntime.py"))
    with pytest.raises(SystemExit, match=message):
        example["read_manifest"](tmp_path)


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_plain_onnxruntime_refuses_a_bundle_that_contradicts_itself(case, tmp_path):
    bundle, message = contradicting(case, tmp_path)
    error = fail([sys.executable, str(EXAMPLES / "02_plain_onnxruntime.py"), str(bundle)], tmp_path)
    assert message in error
    assert error.count("\n") == 1


def test_plain_onnxruntime_runs_without_our_packages(tmp_path):
    blocked = ["svg_common", "svg_runtime", "svg_train", "torch"]
    script = EXAMPLES / "02_plain_onnxruntime.py"
    program = f"import sys, runpy; sys.modules.update(dict.fromkeys({blocked})); sys.argv[1:] = []; "
    program += f"runpy.run_path({str(script)!r}, run_name='__main__')"
    assert "3 futures of 10 frames" in run([sys.executable, "-c", program], tmp_path)


@pytest.fixture(scope="session")
def javascript(tmp_path_factory) -> Path:
    """A copy of the JavaScript example with its packages installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("javascript") / "example"
    shutil.copytree(EXAMPLES / "03_javascript", folder, ignore=IGNORED)
    run(["npm", "install", "--no-audit", "--no-fund"], folder)
    return folder


# Turning a list into float32 a second time is an error: a long video took the square of its length.
ONCE = """data:text/javascript,
const { from } = Float32Array, seen = new Set();
Float32Array.from = function (list, ...more) {
  if (Array.isArray(list) && seen.has(list)) throw new Error("turned into float32 again");
  seen.add(list);
  return from.call(this, list, ...more);
};"""


def compare_javascript(example: Path, bundle: Path, folder: Path, unread: tuple[str, ...] = ()) -> None:
    """Compare on a copy of the bundle without the files of the graphs that are not needed."""
    case = ForecastCase.of(bundle)
    copy = Path(shutil.copytree(bundle, folder / "copy.svgb"))
    for name in unread:
        (copy / f"fp32/{name}.onnx").unlink()
    (folder / "input.json").write_text(json.dumps(case.given))
    command = ["node", "--import", ONCE, "forecast.mjs", str(copy), str(folder / "input.json"), str(folder / "output.json")]
    run(command, example)
    case.compare(json.loads((folder / "output.json").read_text()))


def test_javascript_gives_the_frames_and_surprises_of_the_forecaster(javascript, bundle, tmp_path):
    compare_javascript(javascript, bundle, tmp_path)


def test_javascript_does_so_with_fused_graphs(javascript, fused_bundle, tmp_path):
    compare_javascript(javascript, fused_bundle, tmp_path, unread=("predictor", "decoder", "decoder_shuffled"))


def test_javascript_does_so_without_a_learned_prior(javascript, unlearned_bundle, tmp_path):
    compare_javascript(javascript, unlearned_bundle, tmp_path)


@pytest.mark.parametrize("family", sampled(["srvp-skips", "ensemble", "predrnn", "convlstm"], SAMPLE))
def test_javascript_does_so_with_models_of_other_families(javascript, family_bundle, family, tmp_path):
    compare_javascript(javascript, family_bundle(family), tmp_path)


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_javascript_refuses_a_bundle_that_contradicts_itself(javascript, case, tmp_path):
    bundle, message = contradicting(case, tmp_path)
    error = fail(["node", "forecast.mjs", str(bundle)], javascript)
    assert error.startswith("error: ")
    assert message in error
    assert "\n    at " not in error  # a stack


def test_javascript_without_its_packages_says_how_to_install_them(tmp_path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    folder = Path(shutil.copytree(EXAMPLES / "03_javascript", tmp_path / "example", ignore=IGNORED))
    expected = r"error: Cannot find package 'onnxruntime-node' .*\n  install it with: npm install\n"
    assert re.fullmatch(expected, fail(["node", "forecast.mjs"], folder))


def test_javascript_refuses_files_that_cannot_be_read(javascript, tmp_path):
    (tmp_path / "input.json").write_text("{")
    for arguments, expected in (
        (["nope"], r"nope/manifest\.json: ENOENT.*\n  expected a \*\.svgb folder"),
        (
            [str(EMBEDDED_MODEL), str(tmp_path / "input.json")],
            rf"{tmp_path}/input\.json: .*JSON.*\n  expected INPUT\.json as above",
        ),
    ):
        assert re.fullmatch(rf"error: cannot read {expected}\n", fail(["node", "forecast.mjs", *arguments], javascript))


def test_javascript_refuses_an_input_without_frames(javascript, tmp_path):
    (tmp_path / "input.json").write_text("[]")
    error = fail(["node", "forecast.mjs", str(EMBEDDED_MODEL), str(tmp_path / "input.json")], javascript)
    assert error == f"error: {tmp_path}/input.json has no array frames\n  expected INPUT.json as above\n"


REFUSED = """
import { readFile } from "node:fs/promises";
import { checkManifest } from "./manifest.mjs";
const said = (manifest) => {
  try {
    checkManifest(manifest);
    return "taken";
  } catch (error) {
    return error.message;
  }
};
console.log(JSON.stringify(JSON.parse(await readFile(process.argv[1], "utf8")).map(said)));
"""


# what the manifest of a bundle with all graphs, or of the camera model, is changed to -> what is said of it
LACKING: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("fused", lambda m: None, "taken"),
    ("camera", lambda m: None, "taken"),
    ("fused", dict.clear, "format undefined undefined"),
    ("fused", lambda m: m.pop("model"), "no table model;"),
    ("fused", lambda m: m.update(frame=[]), "no table frame;"),
    ("fused", lambda m: m.pop("generation"), "no table generation;"),
    ("fused", lambda m: m.pop("variants"), "no table variants;"),
    ("fused", lambda m: m["variants"]["fp32"].update(graphs=[]), "no fp32 graphs;"),
    ("fused", lambda m: fp32_graphs(m).update(encoder=None), "no inputs or no outputs of encoder;"),
    ("fused", lambda m: fp32_graphs(m)["encoder"].update(outputs=[None]), "no inputs or no outputs of encoder;"),
    ("fused", lambda m: fp32_graphs(m)["encoder"].pop("file"), "no file, sha256 or bytes of encoder;"),
    ("fused", lambda m: fp32_graphs(m)["prior"].update(sha256=5), "no file, sha256 or bytes of prior;"),
    ("fused", lambda m: fp32_graphs(m)["step"].update(bytes=0.5), "no file, sha256 or bytes of step;"),
    ("fused", lambda m: fp32_graphs(m)["step"]["states"].pop(), "the states ["),
    ("fused", lambda m: fp32_graphs(m)["step"]["states"][0].update(initial="zeros"), "from zeros"),
    ("fused", lambda m: fp32_graphs(m)["prior"]["states"].clear(), "the states [] of prior, not [state to state_out from "),
    ("fused", lambda m: fp32_graphs(m)["prior"].update(states=[None]), "states [null] of prior;"),
    ("fused", lambda m: fp32_graphs(m).pop("encoder"), "but no encoder;"),
    ("fused", lambda m: fp32_graphs(m).pop("skip"), "but no skip;"),
    ("fused", lambda m: fp32_graphs(m).pop("prime"), "the states ["),
    ("fused", lambda m: fp32_graphs(m).clear(), "the graphs [], but no step;"),
    ("camera", lambda m: fp32_graphs(m).pop("decode"), "the graphs [prime,step], but no decode;"),
    ("camera", lambda m: fp32_graphs(m).pop("step"), "but no step;"),
]  # fmt: skip


def test_javascript_says_what_a_manifest_lacks(javascript, fused_bundle, tmp_path):
    manifests = []
    for name, change, _ in LACKING:
        bundle = fused_bundle if name == "fused" else EMBEDDED_MODEL.with_name("camera.svgb")
        manifests.append(json.loads((bundle / "manifest.json").read_text(encoding="utf-8")))
        change(manifests[-1])
    (tmp_path / "manifests.json").write_text(json.dumps([*manifests, None, []]))
    answers = json.loads(run(["node", "--input-type=module", "--eval", REFUSED, str(tmp_path / "manifests.json")], javascript))
    for answer, expected in zip(answers, [*(expected for *_, expected in LACKING), "format", "format"], strict=True):
        assert expected in answer


@pytest.mark.parametrize("counts", [{"samples": 65537}, {"horizon": 65537}, {"samples": 0}, {"horizon": 1.5}])
def test_javascript_refuses_counts_that_python_refuses(javascript, tmp_path, counts):
    case = ForecastCase.of(EMBEDDED_MODEL)
    name, count = next(iter(counts.items()))
    (tmp_path / "input.json").write_text(json.dumps({**case.given, "noise": None, "contextNoise": None, **counts}))
    command = ["node", "forecast.mjs", str(EMBEDDED_MODEL), str(tmp_path / "input.json"), str(tmp_path / "output.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=javascript, check=False)
    assert done.returncode == 1
    assert f"{name} is {count}; expected a whole number from 1 to 65536" in done.stderr


OVERLAPPING = """
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-node";
import { Forecaster } from "./forecaster.mjs";
const bundle = process.argv[1];
const manifest = JSON.parse(await readFile(`${bundle}/manifest.json`, "utf8"));
const forecaster = await Forecaster.open({ ort, manifest, load: ({ file }) => `${bundle}/${file}` });
const { channels, height, width } = manifest.frame;
const frame = new Float32Array(channels * height * width);
const reset = async () => forecaster.reset();
const said = (calls) => Promise.allSettled(calls).then((ends) => ends.map((end) => end.reason?.message ?? "done").join(" | "));
console.log(await said([forecaster.observe(frame), forecaster.observe(frame), reset()]));
console.log(await said([forecaster.observe(frame)]), forecaster.seen.length);
"""


def test_javascript_refuses_calls_that_overlap_and_goes_on(javascript):
    command = ["node", "--input-type=module", "--eval", OVERLAPPING, str(EMBEDDED_MODEL)]
    refusal = "another call still runs; await it first"
    assert run(command, javascript) == f"done | {refusal} | {refusal}\ndone 2\n"


LIMITS = """
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-node";
import { Forecaster } from "./forecaster.mjs";
import { checkManifest } from "./manifest.mjs";
const bundle = process.argv[1];
const manifest = JSON.parse(await readFile(`${bundle}/manifest.json`, "utf8"));
const forecaster = await Forecaster.open({ ort, manifest, load: ({ file }) => `${bundle}/${file}` });
const { channels, height, width } = manifest.frame;
const answers = [];
for (const value of [1, 1.0005, 1.002, 0, -0.0005, -0.002, NaN]) {
  const frame = new Float32Array(channels * height * width).fill(value);
  answers.push(await forecaster.observe(frame).then(() => [...forecaster.seen.at(-1).h.data].join(), (error) => error.message));
}
for (const draws of [null, 0, 1024, 1025, -1, 1.5, "4"]) {
  try {
    checkManifest({ ...manifest, generation: { ...manifest.generation, context_draws: draws } });
    answers.push("taken");
  } catch (error) {
    answers.push(error.message);
  }
}
console.log(JSON.stringify(answers));
"""


def test_javascript_takes_the_frames_and_draws_that_python_takes(javascript):
    answers = json.loads(run(["node", "--input-type=module", "--eval", LIMITS, str(EMBEDDED_MODEL)], javascript))
    white, almost_white, too_bright, black, almost_black, too_dark, no_number = answers[:7]
    assert (white, black) == (almost_white, almost_black)
    assert white != black
    assert {too_bright, too_dark, no_number} == {"the frame has values outside of [0, 1]"}
    assert answers[7:10] == ["taken"] * 3
    for answer, draws in zip(answers[10:], ("1025", "-1", "1.5", '"4"'), strict=True):
        assert f"context_draws {draws}, not 0 to 1024" in answer


def test_javascript_runs_on_the_embedded_model_without_arguments(javascript, tmp_path):
    """In a copy of the part of the repository where it looks for the model."""
    repository = tmp_path / "repository"
    shutil.copytree(EMBEDDED_MODEL, repository / "runtime/svg_runtime/embedded/digits.svgb")
    folder = repository / "examples/03_javascript"
    shutil.copytree(EXAMPLES / "03_javascript", folder, ignore=IGNORED)
    (folder / "node_modules").symlink_to(javascript / "node_modules")
    assert "3 futures of 10 frames" in run(["node", "forecast.mjs"], folder)


@pytest.mark.parametrize("model", ["digits", "camera"])
def test_a_source_of_ones_own_feeds_the_forecaster(tmp_path, model):
    lines = run_example("04_own_source.py", tmp_path, model).splitlines()
    assert sum("4 futures" in line for line in lines) == 11  # 15 pictures, of which 4 are context only
    assert lines[-1].startswith("simulated thermal camera, 16 bits: 15 pictures")


@pytest.fixture(params=["05_over_http.py", "05_over_http.mjs"])
def over_http(request, tmp_path) -> Callable[[str], str]:
    """Ask a server at an address, which fails. Returns what it says."""
    interpreter = sys.executable if request.param.endswith(".py") else shutil.which("node")
    if interpreter is None:
        pytest.skip("node is not installed")
    return lambda address: fail([interpreter, str(EXAMPLES / request.param), address], tmp_path)


def test_http_without_a_server_says_how_to_start_one(over_http):
    with socket.socket() as taken:  # bound and not listening: nothing answers there
        taken.bind(("127.0.0.1", 0))
        error = over_http(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert re.fullmatch(r"no answer from .*(Connection refused|ECONNREFUSED).*\n  start the server with: svg-serve\n", error)


# a name with two addresses, as localhost often has
TWO_ADDRESSES = """data:text/javascript,
import dns from "node:dns";
dns.lookup = (name, options, done) => done(null, ["127.0.0.1", "127.0.0.2"].map((address) => ({ address, family: 4 })));
"""


def test_http_without_a_server_says_why_for_a_name_with_several_addresses(tmp_path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    with socket.socket() as taken:
        taken.bind(("", 0))
        address = f"http://localhost:{taken.getsockname()[1]}"
        error = fail(["node", "--import", TWO_ADDRESSES, str(EXAMPLES / "05_over_http.mjs"), address], tmp_path)
    assert error == f"no answer from {address}: ECONNREFUSED\n  start the server with: svg-serve\n"


@pytest.mark.parametrize("address", ["127.0.0.1:18008", "localhost:80", "http://", "http://x:y"])
def test_http_refuses_what_is_no_address(over_http, address):
    advice = r"\n  give an address such as http://127\.0\.0\.1:8008\n"
    assert re.fullmatch(rf"cannot ask '{address}': .*{advice}", over_http(address))
