"""The C++ example gives the Forecaster's frames, for every family, and one clear message for everything else.

It is built as its README says, but with the address and undefined behaviour sanitizers: memory that is read outside, freed
twice or lost fails the test in which it happens.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock
from onnx import TensorProto, helper

from svg_common.digits import digit_stream
from svg_common.frames import fit_frame
from svg_runtime import Forecaster
from svg_runtime.bundle.reader import EMBEDDED_FOLDER, EMBEDDED_MODEL, Bundle
from tests.conftest import export_model, made_once, random_model, save_model, shared_folder
from tests.sample import sampled

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "cpp"
SAMPLES, HORIZON = 3, 10
TOLERANCE = 1e-4
BUILD = {
    "CMAKE_BUILD_TYPE": "None",
    "CMAKE_CXX_FLAGS": "-O0 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all",
    "CMAKE_UNITY_BUILD": "ON",  # the headers are read once: that is most of the time
}
EVERY_KIND_OF_BUNDLE = [
    "digits", "tiny", "following", "fixed-separate", "none-separate",  # by the separate graphs
    "fused", "following-fused", "fixed", "none", "spatial", "srvp-skips", "camera", "ensemble", "convlstm",
]  # fmt: skip
SAMPLE = {"digits", "none-separate", "fused", "srvp-skips", "camera", "convlstm"}  # of the default run


def succeed(*command: object, folder: Path | None = None) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def library() -> Path | None:
    """The shared library in the wheel of ONNX Runtime; older wheels have none."""
    spec = importlib.util.find_spec("onnxruntime")
    folders = spec.submodule_search_locations if spec else None
    return next(iter(sorted(Path(folders[0]).glob("capi/libonnxruntime.so.1*"))), None) if folders else None


@pytest.fixture(scope="session")
def program(request, tmp_path_factory) -> Path:
    """The built example."""
    if sys.platform != "linux" or library() is None:
        pytest.skip("no shared library of ONNX Runtime is installed")
    for tool in ("cmake", "c++", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    includes = "#include <nlohmann/json.hpp>\n#include <openssl/evp.h>\n"
    if subprocess.run(["c++", "-E", "-x", "c++", "-"], input=includes.encode(), capture_output=True, check=False).returncode:
        pytest.skip("nlohmann-json3-dev or libssl-dev is not installed")
    cache = getattr(request.config, "cache", None)  # none with -p no:cacheprovider
    name = "onnxruntime-headers"  # 150 MB are fetched for them
    headers = shared_folder(tmp_path_factory, name) if cache is None else cache.mkdir(name)
    with FileLock(headers.with_suffix(".lock")):
        fetched = subprocess.run([EXAMPLE / "headers.sh", headers], capture_output=True, text=True, timeout=300, check=False)
    if fetched.returncode == 4:
        pytest.skip("the headers are not there, and the npm registry cannot be reached")
    assert fetched.returncode == 0, fetched.stderr

    def build(path: Path) -> Path:
        places = {"ONNXRUNTIME_INCLUDE_DIR": headers, "ONNXRUNTIME_LIBRARY": library()}
        folder = path.with_suffix(".build")
        succeed("cmake", "-S", EXAMPLE, "-B", folder, *(f"-D{name}={value}" for name, value in {**BUILD, **places}.items()))
        succeed("cmake", "--build", folder)
        return (folder / "svg_forecast").rename(path)

    return made_once(tmp_path_factory, "svg_forecast", build)


@dataclass
class Given:
    """A bundle, and all that a forecast depends on, as arrays."""

    bundle: Path
    frames: np.ndarray  # (n_past + 2, H, W, C) float32
    context_noise: np.ndarray
    noise: np.ndarray

    @classmethod
    def of(cls, bundle: Path, horizon: int = HORIZON) -> Given:
        manifest, rng, draw = Bundle.open(bundle).manifest, np.random.default_rng(5), digit_stream(3)
        frame, z_dim = manifest.frame, manifest.model.z_dim
        pictures = [np.repeat((draw() * 255).astype(np.uint8)[..., None], 3, -1) for _ in range(manifest.generation.n_past + 2)]
        frames = np.stack([fit_frame(picture, frame.height, frame.width, frame.channels) for picture in pictures])
        return cls(
            bundle=bundle,
            frames=frames.astype(np.float32) / 255,
            context_noise=rng.standard_normal((manifest.context_draws, SAMPLES, z_dim), np.float32),
            noise=rng.standard_normal((horizon, SAMPLES, z_dim), np.float32),
        )

    def save(self, folder: Path) -> list[str]:
        """Write the arrays; returns the arguments that name them."""
        for name in ("frames", "context_noise", "noise"):
            np.save(folder / f"{name}.npy", getattr(self, name))
        return [
            "--noise", f"{folder}/noise.npy", "--context-noise", f"{folder}/context_noise.npy", "--samples", str(SAMPLES),
            "--horizon", str(len(self.noise)), "--threads", "1", str(self.bundle), f"{folder}/frames.npy",
        ]  # fmt: skip

    def expected(self, **options) -> np.ndarray:
        """What the Forecaster gives."""
        sizes = {"samples": SAMPLES, "horizon": len(self.noise)}
        with Forecaster.open(self.bundle, backend="cpu", precision="fp32", threads=1, **sizes, **options) as forecaster:
            for frame in self.frames:
                forecaster.observe(frame)
            context_noise = None if options.get("context") == "stream" else self.context_noise
            return forecaster.forecast(noise=self.noise, context_noise=context_noise)


def without_fused(bundle: Path, copy: Path) -> Path:
    shutil.copytree(bundle, copy)
    change_manifest(copy, lambda manifest: [graphs(manifest).pop(role) for role in ("prime", "step")])
    change_manifest(copy, lambda manifest: manifest["variants"].pop("fp16", None))
    return copy


def change_manifest(bundle: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def graphs(manifest: dict) -> dict:
    return manifest["variants"]["fp32"]["graphs"]


@pytest.fixture
def bundle_of(request, tmp_path_factory, family_bundle, tmp_path) -> Callable[[str], Path]:
    """A bundle by its name in EVERY_KIND_OF_BUNDLE."""

    def exported(name: str, **model) -> Path:
        def make(path: Path) -> Path:
            return export_model(save_model(path.with_suffix(".pt"), random_model(**model)), path, fused=True)

        return made_once(tmp_path_factory, f"cpp-{name}.svgb", make)

    def bundle(name: str) -> Path:
        if name in ("digits", "camera"):
            return EMBEDDED_FOLDER / f"{name}.svgb"
        if name in ("fused", "tiny", "following"):
            return request.getfixturevalue(f"{name}_bundle")
        if name in ("fixed", "none"):
            return exported(name, prior=name)
        if name.endswith("-separate"):
            return without_fused(bundle(name.removesuffix("-separate")), tmp_path / f"{name}.svgb")
        return exported(name, last_frame_skip=True) if name == "following-fused" else family_bundle(name)

    return bundle


def forecast(program: Path, folder: Path, *arguments: str) -> np.ndarray:
    succeed(program, *arguments, "--out", folder / "futures.npy")
    return np.load(folder / "futures.npy")


@pytest.mark.parametrize("name", sampled(EVERY_KIND_OF_BUNDLE, SAMPLE))
def test_it_gives_the_frames_of_the_forecaster(program, bundle_of, name, tmp_path):
    given = Given.of(bundle_of(name))
    np.testing.assert_allclose(
        forecast(program, tmp_path, *given.save(tmp_path)), given.expected(), rtol=0, atol=TOLERANCE, strict=True
    )


def test_it_decodes_more_frames_than_one_batch_holds(program, tmp_path):
    given = Given.of(EMBEDDED_FOLDER / "camera.svgb", horizon=25)
    np.testing.assert_allclose(forecast(program, tmp_path, *given.save(tmp_path)), given.expected(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "context"), [("convlstm", "window"), ("convlstm", "stream"), ("fused", "stream")])
def test_it_reads_a_window_or_a_stream(program, bundle_of, name, context, tmp_path):
    given = Given.of(bundle_of(name))
    expected = given.expected(context=context, seed=8)
    if name == "fused":  # the Forecaster draws at every frame
        rng, draws = np.random.default_rng(8), (SAMPLES, given.noise.shape[2])
        given.context_noise = np.stack([rng.standard_normal(draws, np.float32) for _ in given.frames[1:]])
    futures = forecast(program, tmp_path, "--context", context, *given.save(tmp_path))
    np.testing.assert_allclose(futures, expected, rtol=0, atol=TOLERANCE)


def test_noise_depends_on_the_seed_alone(program, fused_bundle, tmp_path):
    frames = Given.of(fused_bundle).save(tmp_path)[-2:]
    first, again, other = (forecast(program, tmp_path, *frames, "--seed", seed) for seed in ("3", "3", "4"))
    assert first.shape == (8, 10, 64, 64, 1)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    assert np.ptp(first, axis=0).max() > 0.01  # samples differ


def test_drawn_noise_is_standard_normal(program, bundle_of, tmp_path):
    """Many samples are as those of the Forecaster, whose draws are others: with a fixed prior they show the noise itself."""
    given = Given.of(bundle_of("fixed"))
    futures = forecast(program, tmp_path, *given.save(tmp_path)[-2:], "--samples", "200", "--horizon", "1")
    with Forecaster.open(given.bundle, backend="cpu", precision="fp32", samples=200, horizon=1) as forecaster:
        for frame in given.frames:
            forecaster.observe(frame)
        expected = forecaster.forecast()
    assert expected.std(axis=0).mean() > 0.001
    np.testing.assert_allclose(futures.std(axis=0).mean(), expected.std(axis=0).mean(), rtol=0.1)
    np.testing.assert_allclose(futures.mean(), expected.mean(), rtol=0, atol=0.02)


def write_pictures(folder: Path, frames: np.ndarray, white: int) -> list[str]:
    """Write frames as PGM or PPM pictures of 8 or 16 bits."""
    ending, dtype = "pgm" if frames.shape[3] == 1 else "ppm", np.uint8 if white == 255 else np.uint16
    for index, frame in enumerate(frames):
        cv2.imwrite(f"{folder}/{index}.{ending}", np.rint(frame * white).astype(dtype)[..., ::-1])
    return [f"{folder}/{index}.{ending}" for index in range(len(frames))]


@pytest.mark.parametrize("files", ["PGM of 8 bits", "PPM of 16 bits", "bytes", "raw numbers"])
def test_frames_are_pictures_bytes_or_raw_numbers(program, files, tmp_path):
    given = Given.of(EMBEDDED_FOLDER / ("camera.svgb" if files.startswith("PPM") else "digits.svgb"))
    arguments = given.save(tmp_path)[:-1]
    frames = [f"{tmp_path}/frames"]
    if files.startswith("P"):
        frames = write_pictures(tmp_path, given.frames, 255 if "8 bits" in files else 65535)
    elif files == "bytes":
        frames = [f"{tmp_path}/bytes.npy"]
        np.save(frames[0], np.rint(given.frames[..., 0] * 255).astype(np.uint8))  # without the axis of channels
    else:
        given.frames.tofile(frames[0])
        given.noise.tofile(tmp_path / "noise")
        arguments[1] = f"{tmp_path}/noise"
    np.testing.assert_allclose(forecast(program, tmp_path, *arguments, *frames), given.expected(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["digits", "camera"])
def test_the_mosaic_has_a_row_for_each_sample(program, bundle_of, name, tmp_path):
    arguments = Given.of(bundle_of(name), horizon=4).save(tmp_path)
    futures = forecast(program, tmp_path, "--mosaic", f"{tmp_path}/mosaic", *arguments)
    mosaic = cv2.imread(f"{tmp_path}/mosaic", cv2.IMREAD_UNCHANGED)
    rows = np.concatenate(list(np.concatenate(list(futures.transpose(1, 0, 2, 3, 4)), axis=2)), axis=0)
    np.testing.assert_allclose(np.atleast_3d(mosaic)[..., ::-1] / 255, rows, rtol=0, atol=0.5 / 255 + 1e-6)


def change_byte(bundle: Path) -> None:
    content = bytearray((bundle / "fp32/encoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "fp32/encoder.onnx").write_bytes(content)


def point_outside(bundle: Path) -> None:
    (bundle / "fp32/encoder.onnx").rename(bundle.parent / "encoder.onnx")
    (bundle / "fp32/encoder.onnx").symlink_to(bundle.parent / "encoder.onnx")


def replace_encoder(bundle: Path) -> None:
    """By a graph of the same names, of which the input is a list of tensors."""
    frames = helper.make_tensor_sequence_value_info("frame", TensorProto.FLOAT, None)
    count = helper.make_tensor_value_info("h", TensorProto.INT64, [])
    model = helper.make_model(helper.make_graph([helper.make_node("SequenceLength", ["frame"], ["h"])], "g", [frames], [count]))
    model.ir_version = 10
    content = model.SerializeToString()
    (bundle / "fp32/encoder.onnx").write_bytes(content)
    stamp = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change_manifest(bundle, lambda manifest: graphs(manifest)["encoder"].update(stamp))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed graph": (change_byte, "fp32/encoder.onnx: changed since export (its SHA-256 is not the manifest's)"),
    "shorter graph": (lambda b: os.truncate(b / "fp32/encoder.onnx", 100), "fp32/encoder.onnx: 100 bytes, the manifest says"),
    "no graph": (lambda b: (b / "fp32/encoder.onnx").unlink(), "fp32/encoder.onnx: missing"),
    "link": (point_outside, "fp32/encoder.onnx: points outside the bundle"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "is not a bundle: it has no manifest.json"),
    "no JSON": (lambda b: (b / "manifest.json").write_text("{"), "is not valid JSON"),
    "deep JSON": (
        lambda b: (b / "manifest.json").write_text('{"schema_version": ' + "[" * 10**6 + "]" * 10**6 + "}"),
        "is nested too deeply for a manifest",
    ),
    "long JSON": (
        lambda b: change_manifest(b, lambda m: m["generation"].update(n_past="5" * 10**6)),
        f"n_past is \"{'5' * 39}, expected 2 to 1024",
    ),
    "no table": (lambda b: (b / "manifest.json").write_text("[]"), "has schema version null; this program reads version 1"),
    "other version": (
        lambda b: change_manifest(b, lambda m: m.update(schema_version=2)),
        "has schema version 2; this program reads version 1",
    ),
    "missing key": (lambda b: change_manifest(b, lambda m: m.pop("frame")), "is not a valid manifest: "),
    "odd number": (
        lambda b: change_manifest(b, lambda m: m["generation"].update(n_past=-5)),
        "is not a valid manifest: n_past is -5, expected 2 to 1024",
    ),
    "outside path": (
        lambda b: change_manifest(b, lambda m: graphs(m)["encoder"].update(file="../encoder.onnx")),
        "encoder: the file is not a plain path inside the bundle",
    ),
    "huge tensor": (
        lambda b: change_manifest(b, lambda m: graphs(m)["encoder"]["inputs"][0].update(shape=["batch", 65536, 65536])),
        "frame is too large",
    ),
    "other size of frames": (
        lambda b: change_manifest(b, lambda m: m["frame"].update(height=128)),
        "its frames are not of the size of the manifest's",
    ),
    "other interface": (
        lambda b: change_manifest(b, lambda m: graphs(m)["encoder"]["outputs"][0].update(shape=["batch", 65])),
        "fp32/encoder.onnx: its outputs are not those of the manifest",
    ),
    "other bundle": (
        lambda b: change_manifest(b, lambda m: m.update(bundle_id="0" * 16)),
        "belongs to another bundle or graph",
    ),
    "other graph": (
        lambda b: change_manifest(b, lambda m: graphs(m).update(encoder=graphs(m)["decoder"])),
        "fp32/decoder.onnx: belongs to another bundle or graph",
    ),
    "fraction": (
        lambda b: change_manifest(b, lambda m: m["generation"].update(n_past=5.0)),
        "is not a valid manifest: n_past is 5.0, expected 2 to 1024",
    ),
    "other version, as a fraction": (
        lambda b: change_manifest(b, lambda m: m.update(schema_version=1.0)),
        "has schema version 1.0; this program reads version 1",
    ),
    "no prior": (
        lambda b: change_manifest(b, lambda m: graphs(m).pop("prior")),
        "there is no graph prior, but the prior is learned",
    ),
    "a prior too many": (
        lambda b: change_manifest(b, lambda m: m["model"].update(prior="fixed")),
        "there is a graph prior, but the prior is fixed",
    ),
    "unknown prior": (
        lambda b: change_manifest(b, lambda m: m["model"].update(prior="guessed")),
        'prior is "guessed", expected one of ["learned","fixed","none"]',
    ),
    "no latents": (lambda b: change_manifest(b, lambda m: m["model"].update(z_dim=0)), "z_dim is 0 with the prior learned"),
    "order of colours": (
        lambda b: change_manifest(b, lambda m: m["frame"].update(colour_order="BGR")),
        'colour_order is "BGR", expected one of ["gray","RGB"]',
    ),
    "colours": (
        lambda b: change_manifest(b, lambda m: m["frame"].update(colour_order="RGB")),
        "channels is 1 with the colour_order RGB",
    ),
    "context": (lambda b: change_manifest(b, lambda m: m["generation"].update(context="tape")), 'context is "tape"'),
    "name twice": (
        lambda b: (b / "manifest.json").write_text(
            (b / "manifest.json").read_text().replace('"n_past":', '"n_past": 3, "n_past":', 1)
        ),
        'is not a valid manifest: it has "n_past" twice',
    ),
    "no roles": (lambda b: change_manifest(b, lambda m: graphs(m).pop("decoder")), "has neither step, nor encoder, predictor"),
    "no state": (
        lambda b: change_manifest(b, lambda m: graphs(m)["predictor"]["states"].clear()),
        'predictor: the states are [], expected [["state","state_out"]]',
    ),
    "a state of nothing": (
        lambda b: change_manifest(b, lambda m: graphs(m)["decoder"]["states"].append({"input": "g", "output": "g"})),
        'decoder: the states are [["g","g"]], expected []',
    ),
    "no skip": (lambda b: change_manifest(b, lambda m: graphs(m).pop("skip")), "there is no graph skip, which the others need"),
    "a list of tensors": (replace_encoder, "fp32/encoder.onnx: its inputs are not those of the manifest"),
}  # fmt: skip
# of which bundle, by its name in EVERY_KIND_OF_BUNDLE, which graph is taken away
LACKING = [("fused", "encoder"), ("fused", "prime"), ("camera", "prime"), ("camera", "decode"), ("camera", "step")]


def fail(program: Path, *arguments: object) -> tuple[int, str]:
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") <= 4
    return done.returncode, done.stderr


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_bundle_is_refused(program, damage, tmp_path):
    bundle = Path(shutil.copytree(EMBEDDED_MODEL, tmp_path / "digits.svgb"))
    arguments = Given.of(bundle).save(tmp_path)
    change, message = DAMAGE[damage]
    change(bundle)
    code, error = fail(program, *arguments, "--out", tmp_path / "futures.npy")
    assert code == 1
    assert message in error
    assert not (tmp_path / "futures.npy").exists()


@pytest.mark.parametrize(("name", "role"), LACKING)
def test_a_bundle_that_lacks_a_graph_is_refused(program, bundle_of, name, role, tmp_path):
    bundle = Path(shutil.copytree(bundle_of(name), tmp_path / "lacking.svgb"))
    arguments = Given.of(bundle).save(tmp_path)
    change_manifest(bundle, lambda manifest: graphs(manifest).pop(role))
    code, error = fail(program, *arguments, "--out", tmp_path / "futures.npy")
    assert code == 1
    assert f"is not a valid manifest: there is no graph {role}, which the others need\n" in error


def test_a_bundle_without_fp32_graphs_is_refused(program, tmp_path):
    bundle = Path(shutil.copytree(EMBEDDED_MODEL, tmp_path / "digits.svgb"))
    arguments = Given.of(bundle).save(tmp_path)
    change_manifest(bundle, lambda manifest: manifest["variants"].pop("fp32"))
    assert fail(program, *arguments) == (
        4,
        f"error: '{bundle}' has no fp32 variant\n  export it with: svg-export ckpt.pt\n",
    )


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "no arguments": ([], 2, "the bundle or the frames are missing"),
    "no bundle": (["none.svgb", "frames.npy"], 1, "'none.svgb' does not exist"),
    "file": (["frames.npy", "frames.npy"], 1, "'frames.npy' is a file"),
    "option": (["--sampels", "3", "BUNDLE", "frames.npy"], 2, "unknown option '--sampels'"),
    "one dash": (["-samples", "3", "BUNDLE", "frames.npy"], 2, "unknown option '-s'"),
    "one dash, not ASCII": (["--seed=1", "-é", "BUNDLE", "frames.npy"], 2, "unknown option '-?'"),
    "a value too many": (["--help=3", "BUNDLE", "frames.npy"], 2, "unknown option '--help=3'"),
    "no value": (["BUNDLE", "frames.npy", "--samples"], 2, "the value of '--samples' is missing"),
    "no samples": (["--samples", "0", "BUNDLE", "frames.npy"], 2, "is '0'\n  expected a whole number from 1 to 65536"),
    "threads": (["--threads", "257", "BUNDLE", "frames.npy"], 2, "is '257'\n  expected a whole number from 1 to 256"),
    "no number": (["--seed", "3x", "BUNDLE", "frames.npy"], 2, "--seed is '3x'"),
    "context": (["--context", "all", "BUNDLE", "frames.npy"], 2, "--context is 'all'\n  expected window or stream"),
    "no frames": (["BUNDLE", "none.npy"], 2, "no such file: 'none.npy'"),
    "folder": (["BUNDLE", "."], 2, "'.' is a folder"),
    "two files": (["BUNDLE", "frames.npy", "frames.npy"], 2, "'frames.npy' is not the only file"),
    "few frames": (["BUNDLE", "few.npy"], 1, "3 frame(s)\n  expected at least 5"),
    "shape": (["BUNDLE", "wide.npy"], 2, "'wide.npy' has shape (7, 64, 65, 1)\n  expected (N, 64, 64, 1)"),
    "type": (["BUNDLE", "doubles.npy"], 1, "'doubles.npy' holds '<f8'"),
    "order": (["BUNDLE", "fortran.npy"], 1, "'fortran.npy' is in Fortran order"),
    "cut": (["BUNDLE", "cut.npy"], 1, "'cut.npy' is cut off, or too long"),
    "cut header": (["BUNDLE", "header.npy"], 1, "'header.npy' is cut off"),
    "no numbers": (["BUNDLE", "text.npy"], 1, "'text.npy' is not a .npy file"),
    "raw": (["BUNDLE", "raw.f32"], 2, "'raw.f32' has 17 bytes\n  expected float32 of shape (N, 64, 64, 1)"),
    "range": (["BUNDLE", "bright.npy"], 1, "'bright.npy' holds the value 2"),
    "not finite": (["BUNDLE", "nan.npy"], 1, "'nan.npy' holds the value nan"),
    "picture": (["BUNDLE", "text.pgm"], 2, "'text.pgm' is not a binary PGM or PPM picture\n  expected 64x64 gray (PGM, P5)"),
    "size": (["BUNDLE", "small.pgm"], 2, "'small.pgm' is 8x6 gray"),
    "huge size": (["BUNDLE", "huge.pgm"], 2, "'huge.pgm' is 1000000x1000000 gray"),
    "colour": (["BUNDLE", "colour.ppm"], 2, "'colour.ppm' is 64x64 RGB"),
    "cut picture": (["BUNDLE", "cut.pgm"], 1, "'cut.pgm' is cut off, or damaged"),
    "bright picture": (["BUNDLE", "bright.pgm"], 1, "'bright.pgm' is brighter than its own white"),
    "one output": (["--out", "f", "--mosaic", "f", "BUNDLE", "frames.npy"], 2, "--mosaic would overwrite 'f'"),
    "one output, spelled twice": (["--out", "f", "--mosaic", "./f", "BUNDLE", "frames.npy"], 2, "would overwrite './f'"),
    "output and frames": (["--out", "./frames.npy", "BUNDLE", "frames.npy"], 2, "--out would overwrite './frames.npy'"),
    "output and noise": (["--noise", "few.npy", "--out", "few.npy", "BUNDLE", "frames.npy"], 2, "would overwrite 'few.npy'"),
    "noise": (["--noise", "frames.npy", "BUNDLE", "frames.npy"], 2, "has shape (7, 64, 64, 1)\n  expected (10, 8, 10)"),
    "noise, not finite": (["--noise", "nan_noise.npy", "BUNDLE", "frames.npy"], 2, "contains values that are not finite"),
    "output": (["--out", "none/f.npy", "BUNDLE", "frames.npy"], 1, "cannot write 'none/f.npy': No such file or directory"),
}  # fmt: skip


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory) -> Path:
    """The files that MISTAKES names."""
    folder = tmp_path_factory.mktemp("mistakes")
    frames = Given.of(EMBEDDED_MODEL).frames
    wide = np.concatenate([frames, frames[:, :, :1]], axis=2)
    arrays = {
        "frames": frames, "few": frames[:3], "wide": wide, "doubles": frames.astype(float),
        "fortran": np.asfortranarray(frames), "bright": frames * 0 + 2, "nan": frames * np.nan,
        "nan_noise": np.full((10, 8, 10), np.nan, np.float32),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    whole = (folder / "frames.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-1])
    (folder / "header.npy").write_bytes(whole[:40])
    (folder / "text.npy").write_text("numbers")
    (folder / "text.pgm").write_text("a picture")
    (folder / "raw.f32").write_bytes(bytes(17))
    cv2.imwrite(str(folder / "small.pgm"), np.zeros((6, 8), np.uint8))
    cv2.imwrite(str(folder / "colour.ppm"), np.zeros((64, 64, 3), np.uint8))
    (folder / "bright.pgm").write_bytes(b"P5\n64 64\n100\n" + bytes(64 * 64 - 1) + b"\x65")
    (folder / "huge.pgm").write_bytes(b"P5\n99999999999 99999999999\n255\n")
    (folder / "cut.pgm").write_bytes(b"P5\n64 64\n255\n" + bytes(64 * 64 - 1))
    return folder


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_message_and_the_documented_code(program, mistakes, mistake, monkeypatch):
    monkeypatch.chdir(mistakes)
    arguments, code, message = MISTAKES[mistake]
    exit_code, error = fail(program, *(str(EMBEDDED_MODEL) if part == "BUNDLE" else part for part in arguments))
    assert exit_code == code
    assert message in error
    assert not Path("futures.npy").exists()


def test_links_and_pipes_are_written_into_and_not_replaced(program, tmp_path):
    given = Given.of(EMBEDDED_MODEL, horizon=2).save(tmp_path)
    expected = forecast(program, tmp_path, *given)
    link, target, pipe = tmp_path / "link", tmp_path / "target", tmp_path / "pipe"
    link.symlink_to(target.name)
    target.write_text("old")
    mine = tmp_path / "target.part"
    mine.write_text("a file of the user's")
    os.mkfifo(pipe)
    succeed(program, *given, "--out", link)
    assert link.is_symlink()
    np.testing.assert_array_equal(np.load(target), expected)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    succeed(program, *given, "--out", pipe)
    assert pipe.is_fifo()
    assert reader.communicate(timeout=30)[0] == target.read_bytes()
    assert list(tmp_path.glob("*.part")) == [mine]
    assert mine.read_text() == "a file of the user's"
    assert target.stat().st_mode == mine.stat().st_mode


def test_what_was_written_before_a_mosaic_that_cannot_be_is_named(program, tmp_path):
    command = [program, *Given.of(EMBEDDED_MODEL, horizon=2).save(tmp_path), "--out", "futures.npy", "--mosaic", "none/f.pgm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "3 futures of 2 frames: futures.npy\n"
    assert done.stderr == "error: cannot write 'none/f.pgm': No such file or directory\n  choose another path\n"
    assert np.load(tmp_path / "futures.npy").shape == (3, 2, 64, 64, 1)


@pytest.mark.parametrize("numbers", ["npy", "raw"])
def test_frames_come_through_a_pipe(program, tmp_path, numbers):
    given = Given.of(EMBEDDED_MODEL, horizon=2)
    *arguments, frames = given.save(tmp_path)
    expected = forecast(program, tmp_path, *arguments, frames)
    content = Path(frames).read_bytes() if numbers == "npy" else given.frames.tobytes()
    command = [program, *arguments, "/dev/stdin", "--out", tmp_path / "futures.npy"]  # /proc/.../pipe:[123], as of <(command)
    subprocess.run(command, input=content, check=True, capture_output=True, timeout=300)
    np.testing.assert_array_equal(np.load(tmp_path / "futures.npy"), expected)


def test_nothing_is_written_into_the_bundle(program, tmp_path):
    bundle = Path(shutil.copytree(EMBEDDED_MODEL, tmp_path / "digits.svgb"))
    manifest = (bundle / "manifest.json").read_bytes()
    for out in (bundle, bundle / "manifest.json"):
        code, error = fail(program, *Given.of(bundle).save(tmp_path), "--out", out)
        assert (code, f"--out would overwrite '{out}'" in error) == (2, True)
    assert (bundle / "manifest.json").read_bytes() == manifest


def test_a_family_without_streams_says_so(program, bundle_of, tmp_path):
    code, error = fail(program, "--context", "stream", *Given.of(bundle_of("srvp-skips")).save(tmp_path))
    assert code == 2
    assert "models of the family 'srvp' read windows of frames, and have no stream context" in error


def test_a_library_that_is_older_than_the_headers_is_refused(program, tmp_path):
    """With a library that knows nothing but its version."""
    source = """
    extern "C" {
    struct Base { const void* (*get_api)(unsigned); const char* (*get_version)(); };
    static const void* get_api(unsigned) { return nullptr; }
    static const char* get_version() { return "1.18.0"; }
    static const Base base = {get_api, get_version};
    const Base* OrtGetApiBase() { return &base; }
    }
    """
    symbols = tmp_path / "symbols"  # the loader compares the version of the symbol
    symbols.write_text(f"VERS_{library().name.removeprefix('libonnxruntime.so.')} {{ global: OrtGetApiBase; }};")
    command = ["c++", "-shared", "-fPIC", f"-Wl,--version-script={symbols}", "-x", "c++", "-", "-o"]
    command.append(str(tmp_path / "libonnxruntime.so.1"))
    subprocess.run(command, input=source.encode(), check=True)
    done = subprocess.run(
        [program, *Given.of(EMBEDDED_MODEL).save(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
    )
    assert done.returncode == 4
    assert "error: the library is ONNX Runtime 1.18.0, older than the headers\n  expected at least 1.29\n" in done.stderr


def test_nothing_is_reported_to_anybody(program, tmp_path):
    """ONNX Runtime would write an identifier of the device and a database of events into the home folder."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home)}
    for name in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "CI"):  # each of which may keep it from doing so
        environment.pop(name, None)
    arguments = [*Given.of(EMBEDDED_MODEL).save(tmp_path), "--out", str(tmp_path / "futures.npy"), "--repeat", "2"]
    done = subprocess.run([program, *arguments], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.startswith(f"3 futures of 10 frames: {tmp_path}/futures.npy\nmedian of 2 forecasts: ")
    assert list(home.iterdir()) == []
