"""Opening of bundles whose files are damaged, exchanged or lead elsewhere, and the choice of a model."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from svg_common.errors import ExitCode
from svg_runtime.bundle import reader as bundle_module
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import EMBEDDED_FOLDER, EMBEDDED_MODEL, Bundle, find_model
from svg_runtime.errors import BackendMissingError, BundleError, UsageError
from svg_runtime.forecast.forecaster import Forecaster
from tests.conftest import export_model, random_model, save_model
from tests.svg_runtime.bundle_helpers import copy_bundle, edit_manifest, graph_bytes, replace_graph

SEPARATE_GRAPHS = {"encoder", "skip", "posterior", "prior", "predictor", "decoder"}
GRAPHS = {"fp16": SEPARATE_GRAPHS, "fp32": {*SEPARATE_GRAPHS, "decoder_shuffled"}}


@pytest.fixture
def damaged(tiny_bundle, tmp_path):
    """A copy of tiny_bundle to damage."""
    return copy_bundle(tiny_bundle, tmp_path)


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory):
    """Another model of the same shape: only weights and bundle id differ from tiny_bundle."""
    folder = tmp_path_factory.mktemp("other")
    return export_model(save_model(folder / "other.pt", random_model(seed=3)), folder / "other.svgb")


def refusal(path, precision: Precision = "fp32") -> str:
    """The message with which a bundle is refused."""
    with pytest.raises(BundleError) as caught:
        Bundle.open(path).graphs(precision)
    assert caught.value.exit_code == ExitCode.ERROR
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_intact_bundle_returns_its_files(tiny_bundle, precision):
    contents = Bundle.open(tiny_bundle).graphs(precision)
    assert set(contents) == GRAPHS[precision]
    assert all(content == graph_bytes(tiny_bundle, graph_name, precision) for graph_name, content in contents.items())


def test_a_bundle_may_be_reached_through_a_link(tiny_bundle, tmp_path):
    (tmp_path / "link.svgb").symlink_to(tiny_bundle)
    assert set(Bundle.open(tmp_path / "link.svgb").graphs("fp32")) == GRAPHS["fp32"]


@pytest.mark.parametrize("position", [0, 0.5, 1])
def test_a_changed_byte_is_detected(damaged, position):
    content = bytearray(graph_bytes(damaged, "decoder"))
    content[round(position * (len(content) - 1))] ^= 1
    (damaged / "fp32/decoder.onnx").write_bytes(content)
    message = refusal(damaged)
    assert "fp32/decoder.onnx: changed since export" in message
    assert "encoder" not in message
    assert "svg-export" in message
    assert set(Bundle.open(damaged).graphs("fp16")) == SEPARATE_GRAPHS  # the other variant is whole


def test_truncated_and_missing_graphs_are_listed_together(damaged):
    content = graph_bytes(damaged, "prior")
    (damaged / "fp32/prior.onnx").write_bytes(content[:-100])
    (damaged / "fp32/skip.onnx").unlink()
    (damaged / "fp32/posterior.onnx").write_bytes(b"")
    message = refusal(damaged)
    assert f"fp32/prior.onnx: {len(content) - 100} bytes, the manifest says {len(content)}" in message
    assert "fp32/skip.onnx: missing" in message
    assert "fp32/posterior.onnx: 0 bytes" in message


def test_an_opset_that_contradicts_the_file_is_refused(damaged):
    edit_manifest(damaged, lambda manifest: manifest["variants"]["fp32"]["graphs"]["prior"].update(opset=17))
    assert "fp32/prior.onnx: its opset is 18, the manifest says 17" in refusal(damaged)


@pytest.mark.parametrize("error", [0.02, 123.0])
@pytest.mark.parametrize(("rounding", "allowed"), [(1e-6, 0.0001), (1e-3, 0.01001)])
def test_an_error_above_what_the_parity_gate_allows_is_refused(damaged, error, rounding, allowed):
    report = {"max_error": error, "rounding": [rounding / 2, rounding]}
    edit_manifest(damaged, lambda manifest: manifest["variants"]["fp32"]["parity"].update(report))
    reason = f"does not pass its gate: the largest error is {error:g}, expected at most {allowed:g}"
    assert f"variants.fp32.parity: {reason}" in refusal(damaged)


def test_an_error_above_the_tolerance_of_the_parity_gate_that_rounding_excuses_is_read(damaged):
    report = {"max_error": 0.01, "rounding": [1e-3]}
    edit_manifest(damaged, lambda manifest: manifest["variants"]["fp32"]["parity"].update(report))
    assert Bundle.open(damaged)


def test_a_folder_or_pipe_instead_of_a_graph_file_counts_as_missing(damaged):
    for graph_name, make in (("prior", os.mkdir), ("skip", os.mkfifo)):
        (damaged / f"fp32/{graph_name}.onnx").unlink()
        make(damaged / f"fp32/{graph_name}.onnx")
    assert "fp32/prior.onnx: missing\n  " in refusal(damaged)
    assert "fp32/skip.onnx: missing\n  " in refusal(damaged)


def test_a_file_that_may_not_be_read_is_reported_with_the_others(damaged, monkeypatch):
    real = type(damaged).read_bytes

    def read_bytes(path):  # the tests may run as root, who may read everything
        if path.name == "prior.onnx":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    (damaged / "fp32/skip.onnx").unlink()
    monkeypatch.setattr(type(damaged), "read_bytes", read_bytes)
    message = refusal(damaged)
    assert "Permission denied" in message
    assert "skip.onnx: missing" in message


def test_graphs_of_another_bundle_are_detected_by_their_hash(damaged, other_bundle):
    shutil.copy(other_bundle / "fp32/decoder.onnx", damaged / "fp32/decoder.onnx")
    assert "decoder.onnx" in refusal(damaged)


def test_graphs_of_another_bundle_are_detected_by_their_metadata(damaged, other_bundle):
    replace_graph(damaged, "decoder", graph_bytes(other_bundle, "decoder"))
    own, other = (Bundle.open(bundle).manifest.bundle_id for bundle in (damaged, other_bundle))
    expected = f"its metadata has {{'svg_bundle_id': '{other}', 'svg_graph': 'decoder'}}, expected {{'svg_bundle_id': '{own}', "
    assert f"belongs to another bundle or graph: {expected}" in refusal(damaged)


def test_swapped_graphs_are_detected(damaged):
    prior, posterior = graph_bytes(damaged, "prior"), graph_bytes(damaged, "posterior")
    replace_graph(damaged, "prior", posterior)
    replace_graph(damaged, "posterior", prior)
    message = refusal(damaged)
    assert message.count("belongs to another bundle or graph") == 2  # their interfaces are the same
    replace_graph(damaged, "prior", graph_bytes(damaged, "decoder"))
    assert "prior.onnx: its inputs are" in refusal(damaged)


def test_a_file_that_is_not_onnx_is_refused_even_with_the_right_hash(damaged):
    replace_graph(damaged, "encoder", b"MZ" * 500)
    assert "encoder.onnx: not a readable ONNX file" in refusal(damaged)


def test_an_interface_that_differs_from_the_graph_is_refused(damaged):
    def lie(manifest):
        graphs = manifest["variants"]["fp32"]["graphs"]  # consistent in itself, but not with the files
        graphs["encoder"]["outputs"][1]["shape"][2] = graphs["skip"]["inputs"][0]["shape"][2] = 16

    message = refusal(edit_manifest(damaged, lie))
    assert "encoder.onnx: its outputs are" in message
    assert "skip.onnx: its inputs are" in message
    assert "decoder" not in message


def test_a_link_that_leaves_the_bundle_is_refused(damaged, tmp_path):
    outside = tmp_path / "outside"
    shutil.move(damaged / "fp16", outside)
    (damaged / "fp16").symlink_to(outside)  # a folder on the way
    assert refusal(damaged, "fp16").count("points outside the bundle") == 6
    shutil.move(damaged / "fp32/prior.onnx", tmp_path / "prior.onnx")
    (damaged / "fp32/prior.onnx").symlink_to("../../prior.onnx")  # the file itself
    assert "fp32/prior.onnx: points outside the bundle" in refusal(damaged)


def test_a_link_inside_the_bundle_is_followed(damaged):
    shutil.move(damaged / "fp32/prior.onnx", damaged / "prior.onnx")
    (damaged / "fp32/prior.onnx").symlink_to("../prior.onnx")
    assert set(Bundle.open(damaged).graphs("fp32")) == GRAPHS["fp32"]


def test_a_link_to_itself_is_missing(damaged):
    (damaged / "fp32/prior.onnx").unlink()
    (damaged / "fp32/prior.onnx").symlink_to("prior.onnx")
    assert "fp32/prior.onnx: missing" in refusal(damaged)


def test_no_session_opens_for_a_damaged_bundle(damaged, monkeypatch):
    import onnxruntime

    def opened(*_, **__):
        raise AssertionError("a session was opened")

    (damaged / "fp32/skip.onnx").unlink()
    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    with pytest.raises(BundleError, match=r"skip\.onnx: missing"):
        Forecaster.open(damaged)


def test_a_precision_that_the_bundle_lacks_is_a_missing_backend(damaged):
    edit_manifest(damaged, lambda manifest: manifest["variants"].pop("fp16"))
    for precision in ("fp16", "bf16"):
        with pytest.raises(BackendMissingError, match=f"no {precision} variant, only fp32\n.*--{precision}"):
            Bundle.open(damaged).variant(precision)


@pytest.mark.parametrize(("missing", "given"), [("fp16", "bf16"), ("bf16", "fp16")])
def test_a_precision_is_exported_only_where_the_checkpoint_may_be(damaged, monkeypatch, missing, given):
    """It is with its author, not with who runs a model of the package or a fetched one."""
    manifest = Bundle.open(damaged).manifest
    variants = {"fp32": manifest.variants["fp32"], given: manifest.variants["fp32"]}
    bundle = Bundle(damaged, manifest.model_copy(update={"variants": variants}))

    def refused() -> str:
        with pytest.raises(BackendMissingError) as error:
            bundle.variant(missing)
        return str(error.value)

    has = f"has no {missing} variant, only fp32, {given}"
    # A program in Python has no flags.
    others = f"open it with precision='{given}', or --{given}; or open it without precision='{missing}', or without --{missing}"
    assert refused().endswith(f"{has}\n  export it with: svg-export ckpt.pt --{missing}; or {others}")
    with monkeypatch.context() as fetched:
        fetched.setattr(bundle_module, "models_folder", lambda: damaged.parent)
        assert refused().endswith(f"{has}\n  {others}")
    monkeypatch.setattr(bundle_module, "EMBEDDED_FOLDER", damaged.parent)
    assert refused().endswith(f"{has}\n  {others}")


def test_a_bundle_that_another_export_replaces_is_not_called_damaged(damaged, other_bundle):
    opened = Bundle.open(damaged)
    shutil.rmtree(damaged)
    shutil.copytree(other_bundle, damaged)
    with pytest.raises(
        BundleError, match=r"was replaced while it was read:(.|\n)*changed since(.|\n)*\n  run the command again$"
    ):
        opened.graphs("fp32")


def test_a_damaged_model_of_the_package_is_installed_again(damaged, monkeypatch):
    (damaged / "fp32/skip.onnx").unlink()
    assert refusal(damaged).endswith("\n  export it again with: svg-export ckpt.pt")
    monkeypatch.setattr(bundle_module, "EMBEDDED_FOLDER", damaged.parent)
    assert refusal(damaged).endswith("\n  reinstall svg-edge")


def test_only_a_folder_is_a_bundle(tmp_path):
    (tmp_path / "file.svgb").write_bytes(b"data")
    for path in (tmp_path / "nothing.svgb", tmp_path / "file.svgb"):
        assert "svg-export" in refusal(path)


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "loop.svgb"], ids=["long", "nul", "loop"])
def test_a_path_that_the_system_cannot_look_at(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop.svgb", "loop.svgb")
    with pytest.raises(BundleError, match=r"cannot be opened: .*\n  expected the path of a \*\.svgb folder$") as error:
        Forecaster.open(path)
    assert len(str(error.value)) < 600


def test_a_folder_that_cannot_be_looked_into_is_not_the_default_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.svgb").mkdir()
    stat = os.stat

    def no_permission(path, *arguments, **options):
        if not isinstance(path, int) and "other.svgb" in os.fspath(path):
            raise PermissionError(13, "Permission denied")
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", no_permission)
    assert find_model(None) == EMBEDDED_MODEL
    with pytest.raises(BundleError, match=r"cannot be opened: Permission denied"):
        Bundle.open("other.svgb")


def test_the_chosen_model_is_used_whatever_else_is_in_the_folder(tmp_path, monkeypatch, damaged):
    monkeypatch.chdir(tmp_path)
    assert find_model("elsewhere/b.svgb").as_posix() == "elsewhere/b.svgb"


@pytest.mark.parametrize("name", ["embedded", "digits"])
def test_a_name_means_an_embedded_model_unless_a_folder_has_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.svgb").mkdir()
    (tmp_path / "b.svgb" / "manifest.json").touch()
    assert find_model(name) == EMBEDDED_MODEL
    (tmp_path / name).mkdir()
    assert find_model(name).resolve() == tmp_path / name


@pytest.mark.parametrize("name", ["camera", "digits"])
def test_a_bundle_opens_by_the_name_of_an_embedded_model_unless_a_folder_has_it(tmp_path, monkeypatch, name, tiny_bundle):
    monkeypatch.chdir(tmp_path)
    assert Bundle.open(name).path == EMBEDDED_FOLDER / f"{name}.svgb"
    shutil.copytree(tiny_bundle, tmp_path / name)
    assert Bundle.open(name).path.resolve() == tmp_path / name


def test_a_bundle_that_does_not_exist_is_refused_with_the_names_of_embedded_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "camera, digits;" in refusal("cameras")
    assert {path.name for path in EMBEDDED_FOLDER.glob("*.svgb")} == {"camera.svgb", "digits.svgb"}


def test_real_video_takes_the_embedded_camera_model_where_the_package_has_it(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "package"
    digits, camera = package / "digits.svgb", package / "camera.svgb"
    shutil.copytree(tiny_bundle, digits)
    monkeypatch.setattr(bundle_module, "EMBEDDED_FOLDER", package)
    assert find_model(None, real_video=True) == find_model("embedded", real_video=True) == digits
    with pytest.raises(BundleError, match=r"no embedded model 'camera'\n.*--model"):
        find_model("camera")
    shutil.copytree(tiny_bundle, camera)
    assert find_model(None, real_video=True) == find_model("embedded", real_video=True) == find_model("camera") == camera
    assert find_model(None) == find_model("embedded") == find_model("digits", real_video=True) == digits
    shutil.copytree(tiny_bundle, tmp_path / "mine.svgb")
    assert find_model(None, real_video=True) == tmp_path / "mine.svgb"  # one's own goes first


def test_a_checkpoint_is_refused_with_the_export_command(tiny_checkpoint):
    with pytest.raises(BundleError, match=r"is a file\n.*svg-export .*tiny.pt"):
        Bundle.open(tiny_checkpoint)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("clip.flv", "watch a video or a picture with: svg-live --source clip.flv"),
        ("frame.JPG", "watch a video or a picture with: svg-live --source frame.JPG"),
        ("weights", "convert a checkpoint with: svg-export weights"),
        ("notes.txt", "make one with: svg-export ckpt.pt"),
    ],
)
def test_another_file_is_refused_with_what_it_may_be_for(tmp_path, monkeypatch, name, advice):
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    with pytest.raises(BundleError) as refused:
        Bundle.open(name)
    assert str(refused.value) == f"'{name}' is a file\n  expected a *.svgb folder; {advice}"


def test_a_part_of_a_bundle_is_refused_with_its_folder(tiny_bundle):
    with pytest.raises(BundleError, match=f"is a file\n.*give the one that this manifest is in: {tiny_bundle}$"):
        Bundle.open(tiny_bundle / "manifest.json")
    with pytest.raises(BundleError, match=r"is a file\n.*give the one that has this graph and a manifest.json$"):
        Bundle.open(tiny_bundle / "fp32/decoder.onnx")


@pytest.mark.parametrize(("name", "mode"), [("cam.svgb.tar", "w"), ("renamed.bin", "w"), ("cam.svgb.tar.gz", "w:gz")])
def test_a_packed_bundle_is_refused_with_the_command_that_unpacks_it(tiny_bundle, tmp_path, monkeypatch, name, mode):
    monkeypatch.chdir(tmp_path)
    with tarfile.open(name, mode) as archive:
        archive.add(tiny_bundle, "cam.svgb")
    with pytest.raises(BundleError, match=r"is a file\n") as error:
        find_and_open(name)
    command = str(error.value).partition("unpack it with: ")[2].partition(", and give the folder")[0]
    assert command == f"tar -xf {name}"
    subprocess.run(command.split(), check=True)
    assert find_and_open("cam.svgb").manifest == Bundle.open(tiny_bundle).manifest


def find_and_open(path: str) -> Bundle:
    return Bundle.open(find_model(path))


@pytest.mark.parametrize("opened", [Bundle.open, find_model, Forecaster.open])
def test_an_empty_path_is_not_the_current_folder(tiny_bundle, monkeypatch, opened):
    monkeypatch.chdir(tiny_bundle)
    with pytest.raises(UsageError, match=r"a bundle's path is empty\n  expected a \*\.svgb folder.*variable that is not set"):
        opened("")


def test_by_default_the_newest_bundle_in_the_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    embedded = tmp_path / "embedded/digits.svgb"
    embedded.mkdir(parents=True)
    monkeypatch.setattr(bundle_module, "EMBEDDED_FOLDER", embedded.parent)
    (tmp_path / "no_manifest.svgb").mkdir()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper/d.svgb").mkdir()
    assert find_model(None) == embedded
    for name, age_s in (("a", 300), ("b", 100), ("c", 200)):
        folder = tmp_path / f"{name}.svgb"
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
        os.utime(folder / "manifest.json", (10**9 - age_s, 10**9 - age_s))
    assert find_model(None) == tmp_path / "b.svgb"


def test_without_any_model_the_message_names_the_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bundle_module, "EMBEDDED_FOLDER", tmp_path / "none")
    with pytest.raises(BundleError, match="--model"):
        find_model(None)


def test_a_manifest_with_a_byte_order_mark_is_read(tiny_bundle, tmp_path):
    copy = tmp_path / "b.svgb"
    shutil.copytree(tiny_bundle, copy)
    manifest = copy / "manifest.json"
    manifest.write_bytes(b"\xef\xbb\xbf" + manifest.read_bytes())
    assert Bundle.open(copy).manifest == Bundle.open(tiny_bundle).manifest
    manifest.write_text(manifest.read_text(encoding="utf-8-sig"), encoding="utf-16")
    with pytest.raises(BundleError, match="it is UTF-16 or UTF-32, or not text"):
        Bundle.open(copy)
