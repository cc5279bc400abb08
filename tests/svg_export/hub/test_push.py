"""svg-export --push: huggingface_hub against a stand-in of the Hub's API, and the model card."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from svg_common.files import file_sha256
from svg_export.hub.model_card import MARK, licence_of, model_card
from svg_runtime.bundle.manifest import Manifest
from svg_runtime.bundle.reader import EMBEDDED_FOLDER, Bundle, find_model
from svg_runtime.bundle.remote import fetch
from svg_runtime.bundle.remote.addresses import HubAddress
from tests.hub_server import TOKEN, HubServer, hub_server, use_hub
from tests.svg_runtime.bundle_helpers import move_graphs

pytest.importorskip("huggingface_hub")

CAMERA = EMBEDDED_FOLDER / "camera.svgb"
CHECKPOINT = Path(__file__).parents[3] / "svg_train" / "models" / "camera.pt"
GRAPHS = {"fp32/prime.onnx", "fp32/step.onnx", "fp32/decode.onnx"}


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[HubServer]:
    with hub_server() as server:
        use_hub(server, tmp_path, monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(fetch, "_COMMITS", {})
        yield server


def pushed(hub: HubServer, repo: str = "ada/cam") -> dict[str, bytes]:
    """The files that the Hub has now."""
    found = hub.repos[repo]
    return found.commits[found.branches["main"]]


def test_a_bundle_is_pushed_in_one_commit_and_fetched_again(hub, svg_export):
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam", "--licence", "cc-by-4.0")
    repo = hub.repos["ada/cam"]
    commit = repo.branches["main"]
    assert (code, repo.private) == (0, True)
    assert repo.messages == ["initial commit", f"Bundle {Bundle.open(CAMERA).manifest.bundle_id[:16]}"]
    assert set(pushed(hub)) == {".gitattributes", "README.md", "manifest.json", *GRAPHS}
    assert f"svg-live --model hf://ada/cam@{commit}\n" in output
    assert "private" in output
    assert find_model(f"hf://ada/cam@{commit}").name == "cam.svgb"
    assert all((CAMERA / name).read_bytes() == pushed(hub)[name] for name in ("manifest.json", *GRAPHS))


def test_engines_and_other_files_of_a_bundle_stay_at_home(hub, svg_export, tmp_path):
    bundle = Path(shutil.copytree(CAMERA, tmp_path / "mine.svgb"))
    (bundle / "engines").mkdir()
    (bundle / "engines" / "step.plan").write_bytes(b"code")
    (bundle / "notes.txt").write_text("private")
    assert svg_export(bundle, "--push", "hf://ada/cam", "--public")[0] == 0
    assert set(pushed(hub)) == {".gitattributes", "README.md", "manifest.json", *GRAPHS}
    assert not hub.repos["ada/cam"].private


def test_a_checkpoint_is_pushed_after_its_gate(hub, svg_export, monkeypatch):
    """The export itself, which takes long, is another test's: here it copies a bundle, or its gate fails."""
    from svg_export.parity import ParityError

    def export(out: Path, **options: object) -> Manifest:
        shutil.copytree(CAMERA, out)
        return camera()

    def fail(**options: object) -> Manifest:
        raise ParityError("too far from PyTorch")

    monkeypatch.setattr("svg_export.bundle_writer.write_bundle", fail)
    assert svg_export(CHECKPOINT, "--push", "hf://ada/mine")[0] == 3
    assert hub.repos == {}
    monkeypatch.setattr("svg_export.bundle_writer.write_bundle", export)
    code, output = svg_export(CHECKPOINT, "--push", "hf://ada/mine", "--pack", "cam.svgb.tar", "--json", "s.json")
    commit = hub.repos["ada/mine"].branches["main"]
    assert (code, output.index("wrote camera.svgb") < output.index("pushed camera.svgb")) == (0, True)
    summary = json.loads(Path("s.json").read_text())
    assert summary["pushed"] == f"hf://ada/mine@{commit}"
    assert summary["packed"] == {"file": "cam.svgb.tar", "sha256": file_sha256("cam.svgb.tar")}
    assert Bundle.open(f"hf://ada/mine@{commit}").manifest == camera()


def test_a_second_push_removes_old_graphs_and_keeps_the_licence(hub, svg_export):
    svg_export(CAMERA, "--push", "hf://ada/cam", "--licence", "cc-by-4.0")
    repo = hub.repos["ada/cam"]
    repo.commit({**pushed(hub), "fp16/step.onnx": b"old", "engines/step.plan": b"foreign", "fp32/a/b.onnx": b"foreign"})
    assert svg_export(CAMERA, "--push", "hf://ada/cam")[0] == 0
    assert set(pushed(hub)) == {
        ".gitattributes", "README.md", "manifest.json", *GRAPHS, "engines/step.plan", "fp32/a/b.onnx",
    }  # fmt: skip
    assert b'\nlicense: "cc-by-4.0"\n' in pushed(hub)["README.md"]


def test_the_same_again_makes_no_commit(hub, svg_export):
    svg_export(CAMERA, "--push", "hf://ada/cam")
    first = hub.repos["ada/cam"].branches["main"]
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam")
    assert (code, hub.repos["ada/cam"].branches["main"]) == (0, first)
    assert f"hf://ada/cam@{first}" in output


@pytest.mark.parametrize(
    "card",
    [
        b"---\nlicense: mit\n---\n\n# My camera\n\nWith much love\nfor detail.\n",
        b"# My camera\n\nWith much love.\n",
        b"---\nlicense: other\nlicense_name: mine\n---\n",
    ],
)
def test_a_card_that_was_written_by_hand_is_kept(hub, svg_export, card):
    hub.repo("ada/cam").commit({"README.md": card})
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam")
    assert (code, pushed(hub)["README.md"]) == (0, card)
    assert "was written by hand" in output


def test_the_card_that_the_hub_makes_is_replaced_and_its_licence_kept(hub, svg_export):
    hub.repo("ada/cam").commit({"README.md": b"---\nlicense: mit\n---\n"})
    assert svg_export(CAMERA, "--push", "hf://ada/cam")[0] == 0
    card = pushed(hub)["README.md"].decode()
    assert MARK in card
    assert licence_of(card) == "mit"


def test_somebody_else_pushes_at_the_same_time(hub, svg_export, monkeypatch):
    from svg_export.hub.push import Push

    svg_export(CAMERA, "--push", "hf://ada/cam")
    card = Push._card

    def meanwhile(self, *arguments):
        hub.repos["ada/cam"].commit({**pushed(hub), "README.md": b"theirs"})
        return card(self, *arguments) + "\n"

    monkeypatch.setattr(Push, "_card", meanwhile)
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam")
    assert (code, pushed(hub)["README.md"]) == (1, b"theirs")
    assert "412" in output


def test_what_is_refused_before_any_work(hub, svg_export, monkeypatch, tmp_path):
    hub.repo("ada/llm").commit({"config.json": b"{}", "model.safetensors": b""})
    hub.repo("ada/web").commit({"manifest.json": b'{"name": "a web page"}'})
    hub.repo("ada/lines").commit({"a\nerror: b": b""})
    hub.repo("ada/private").commit({})
    hub.repo("ada/private").private = True
    model = tmp_path / "no.pt"
    model.write_bytes(b"never read")
    for arguments, code, reason in [
        (["--push", "ada/cam"], 2, "expected hf://user/name"),
        (["--push", "hf://ada"], 2, "invalid address of the Hub: 'hf://ada' expected hf://user/name"),
        (["--push", "https://example.org/cam.svgb.tar"], 2, "expected hf://user/name"),
        (["--push", f"hf://ada/cam@{'0' * 40}"], 2, "cannot change one"),
        (["--push", "hf://ada/cam", "--licence", "MIT License"], 2, "invalid --licence"),
        (["--licence", "mit"], 2, "has no effect without --push"),
        (["--public"], 2, "has no effect without --push"),
        (["--push", "hf://ada/llm"], 2, "holds no bundle, but: config.json, model.safetensors"),
        (["--push", "hf://ada/web"], 2, "holds no bundle, but: manifest.json"),
        (["--push", "hf://ada/lines"], 2, r"but: a\nerror: b"),
        (["--push", "hf://ada/private", "--public"], 2, "/ada/private/settings"),
        (["--push", "hf://ada/private@dev"], 1, "no revision 'dev'"),
        (["--push", "hf://ada/new@dev"], 2, "a new one has no branch 'dev'"),
    ]:
        ended, output = svg_export(model, *arguments)
        assert ended == code
        assert reason in " ".join(output.split())
        assert "@revision" not in output  # which a push does not take
    assert "ada/new" not in hub.repos
    hub.role = "read"
    code, output = svg_export(model, "--push", "hf://ada/cam")
    assert (code, "may only read, and a push to hf://ada/cam has to write" in " ".join(output.split())) == (1, True)
    assert "hf auth login" in output
    hub.role = "fineGrained"  # of which only the push shows whether it may write
    assert "may only read" not in svg_export(model, "--push", "hf://ada/cam")[1]
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, output = svg_export(model, "--push", "hf://ada/cam")
    assert (code, "does not accept the token" in output, "hf_wrong" in output) == (1, True, False)
    monkeypatch.delenv("HF_TOKEN")
    code, output = svg_export(model, "--push", "hf://ada/cam")
    assert (code, "hf auth login" in output) == (1, True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam")
    assert (code, "pip install 'svg-edge[hub]'" in output) == (4, True)


def test_a_bundle_takes_no_options_of_the_export(hub, svg_export):
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam", "--fp16", "--data", "digits")
    assert (code, "--fp16, --data has no effect" in output) == (2, True)
    assert hub.repos == {}


def test_no_permission_to_write(hub, svg_export):
    hub.may_write = False
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam")
    assert code == 1
    assert "no permission for hf://ada/cam" in output


def test_only_what_is_wrong_with_the_card_is_blamed_on_it(hub, svg_export):
    hub.card_errors = ['"license" must be one of [mit]']
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam", "--licence", "no-such")
    assert (code, '"license" must be one of' in output, "check --licence" in output) == (2, True, True)
    assert hub.repos == {}
    assert not any("/large/" in request or "repos/create" in request for request in hub.requests)  # it is the first to be asked
    hub.card_errors, hub.commit_error = [], "the repository is full"
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam")
    assert (code, "answers 400 the repository is full" in output, "model card" in output) == (1, True, False)


def test_a_push_that_fails_late_leaves_no_empty_repository(hub, svg_export):
    hub.commit_error = "the repository is full"
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam")
    assert (code, "answers 400 the repository is full" in output, hub.repos) == (1, True, {})
    hub.repo("ada/cam").commit({".gitattributes": b""})  # made by hand: it stays
    assert svg_export(CAMERA, "--push", "hf://ada/cam")[0] == 1
    assert list(hub.repos) == ["ada/cam"]


def test_a_commit_whose_answer_is_lost_stays(hub, svg_export):
    hub.loses_answer = True
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam")
    assert (code, "504" in output, "in the cache" in output) == (1, True, False)
    assert f"may have arrived all the same: look at {hub.url}/ada/cam/commits/main" in output
    assert set(pushed(hub)) == {".gitattributes", "README.md", "manifest.json", *GRAPHS}


@pytest.mark.parametrize("how", ["broken", "offline"])
def test_a_push_without_a_connection_speaks_of_no_cache(hub, svg_export, monkeypatch, how):
    from huggingface_hub import constants

    hub.broken = how == "broken"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "offline")
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam")
    advice = {"broken": "nothing was pushed; check the connection", "offline": "unset it, and run the command again"}[how]
    assert (code, advice in output, "the cache" in output) == (1, True, False)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(f"I/O error: denied (os error {errno.EACCES})"), "error: Permission denied"),
        (
            RuntimeError("Internal error: a"),
            "error: the push failed: RuntimeError: Internal error: a\n  the push may have arrived",
        ),
    ],
)
def test_what_fails_in_the_storage_protocol_is_not_blamed_on_the_hub(hub, svg_export, monkeypatch, error, message):
    from huggingface_hub import HfApi

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(HfApi, "create_commit", fail)
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam")
    assert (code, message in output, "like a Hub" in output, "be reached" in output) == (1, True, False, False)


@pytest.mark.parametrize("when", ["first", "commit", "commit, a list"])
def test_a_page_in_place_of_the_hub(hub, svg_export, monkeypatch, when):
    from huggingface_hub import HfApi

    create_commit = HfApi.create_commit

    def log_out(*arguments, **options):
        hub.page = b"<html>please log in</html>" if when == "commit" else b"[]"
        return create_commit(*arguments, **options)

    if when == "first":
        hub.page = b"<html>please log in</html>"
    else:
        monkeypatch.setattr(HfApi, "create_commit", log_out)
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam")
    advice = "nothing was pushed" if when == "first" else "the push may have arrived"
    assert f"{hub.url} does not answer like a Hub" in output
    assert f"check HF_ENDPOINT and the proxy, or log in to the network; {advice}" in output
    assert (code, "Traceback" in output, "the cache" in output, "--licence" in output) == (1, False, False, False)


def test_an_empty_repository_that_cannot_be_removed_is_said(hub, svg_export, monkeypatch):
    from huggingface_hub import HfApi

    create_commit = HfApi.create_commit

    def lose_permission(*arguments, **options):
        hub.may_write = False
        return create_commit(*arguments, **options)

    monkeypatch.setattr(HfApi, "create_commit", lose_permission)
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam")
    assert code == 1
    assert "no permission for hf://ada/cam" in output
    assert f"may be left empty; delete it at {hub.url}/ada/cam/settings, or push again" in output
    assert list(hub.repos) == ["ada/cam"]


def test_a_damaged_bundle_is_not_pushed(hub, svg_export, tmp_path):
    bundle = Path(shutil.copytree(CAMERA, tmp_path / "mine.svgb"))
    with (bundle / "fp32" / "step.onnx").open("r+b") as file:
        file.write(b"?")
    code, output = svg_export(bundle, "--push", "hf://ada/cam")
    assert (code, "is damaged" in output, hub.repos) == (1, True, {})


def test_a_bundle_that_nobody_could_fetch_is_not_pushed(hub, svg_export, tmp_path):
    bundle = move_graphs(Path(shutil.copytree(CAMERA, tmp_path / "mine.svgb")))
    code, output = svg_export(bundle, "--push", "hf://ada/cam")
    assert (code, "expected names such as fp32/step.onnx" in output, hub.repos) == (1, True, {})


@pytest.mark.parametrize("change", [lambda graph: graph.write_bytes(b"another export"), Path.unlink])
def test_a_bundle_that_changes_after_its_check_is_not_pushed(hub, svg_export, monkeypatch, tmp_path, change):
    bundle, check = Path(shutil.copytree(CAMERA, tmp_path / "mine.svgb")), Bundle.check

    def and_change(opened):
        check(opened)
        change(bundle / "fp32" / "step.onnx")

    monkeypatch.setattr(Bundle, "check", and_change)
    code, output = svg_export(bundle, "--push", "hf://ada/cam")
    assert (code, "changed while it was copied: fp32/step.onnx" in output, hub.repos) == (1, True, {})
    assert "run the command again" in output


def test_what_was_checked_is_pushed_whatever_takes_its_place_meanwhile(hub, svg_export, monkeypatch, tmp_path):
    from huggingface_hub import HfApi

    bundle, upload = Path(shutil.copytree(CAMERA, tmp_path / "mine.svgb")), HfApi.preupload_lfs_files

    def exchange_first(*arguments, **options):
        for addition in arguments[2] if len(arguments) > 2 else ():  # else by the library, which has been given the content
            (bundle / addition.path_in_repo).write_bytes(b"another export")
        upload(*arguments, **options)

    monkeypatch.setattr(HfApi, "preupload_lfs_files", exchange_first)
    assert svg_export(bundle, "--push", "hf://ada/cam")[0] == 0
    assert all((CAMERA / name).read_bytes() == pushed(hub)[name] for name in ("manifest.json", *GRAPHS))


def test_an_upload_that_fails_before_the_commit_has_not_arrived(hub, svg_export):
    hub.has_space = False
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam")
    assert (code, "the push failed" in output, hub.repos) == (1, True, {})
    assert "nothing was pushed; check the connection, and run the command again" in output
    assert "have arrived" not in output


def test_a_full_disk_under_the_cache_of_the_hub_is_named(hub, svg_export, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    svg_export(CAMERA, "--push", "hf://ada/cam")

    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    code, output = svg_export(CAMERA, "--push", "hf://ada/cam")
    assert (code, f"cannot write '{constants.HF_HUB_CACHE}': No space left" in output, "HF_HOME" in output) == (1, True, True)


# ---- The card ----


def camera() -> Manifest:
    return Bundle.open(CAMERA).manifest


def test_the_card_holds_what_the_manifest_reports():
    manifest = camera()
    card = model_card(manifest, HubAddress("ada/cam"), "cc-by-4.0")
    quality = manifest.variants["bf16"].quality
    assert quality is not None
    parity = manifest.variants["fp32"].parity
    assert parity is not None
    assert manifest.training_data is not None
    for fact in (
        f"{quality.metrics['psnr_best'].fp32:.2f}", f"{parity.max_error:.2g}", manifest.training_data.description[:60],
        manifest.provenance.checkpoint_sha256, manifest.bundle_id, f"onnx {manifest.provenance.versions['onnx']}",
        *(graph.sha256 for graph in manifest.variants["fp32"].graphs.values()),
        "svg-live --model hf://ada/cam --camera 0", 'Forecaster.open("hf://ada/cam"', 'license: "cc-by-4.0"',
    ):  # fmt: skip
        assert fact in card
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert rows
    assert all(line.endswith("|") for line in rows)


@pytest.mark.parametrize("name", ["digits.svgb", "camera.svgb"])
def test_every_table_of_the_card_has_as_many_cells_in_each_row(name):
    card = model_card(Bundle.open(EMBEDDED_FOLDER / name).manifest, HubAddress("ada/cam", "dev"), None)
    tables = [block.splitlines() for block in card.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 3
    assert all(len({line.count(" | ") for line in table}) == 1 for table in tables)
    assert "Ask the author" in card
    assert "hf://ada/cam@dev" in card


def test_text_of_a_checkpoint_is_taken_literally():
    content = camera().model_dump(mode="json")
    hostile = "<script>alert(1)</script> | a\n\n# b [c](javascript:d) `e` \x1b"
    content["training_data"]["description"] = hostile
    content["provenance"]["data"] = content["provenance"]["versions"]["onnx"] = hostile
    content["provenance"]["metrics"] = {hostile: 1.0}
    content["model"]["settings"] = {"x | y": hostile, "z": [hostile, 0.5]}
    card = model_card(Manifest.model_validate(content), HubAddress("ada/cam"), None)
    assert "\\<script\\>" in card
    assert "\x1b" not in card
    assert "\n# b" not in card
    assert "`e`" not in card
    for active in ("<script", "](java"):
        assert card.count(active) == card.count(f"\\{active}") > 0


def test_a_bundle_without_reports_has_a_card_too():
    content = camera().model_dump(mode="json")
    del content["training_data"]
    content["provenance"]["metrics"] = {}
    del content["variants"]["bf16"]
    content["generation"]["frame_interval_s"] = None
    card = model_card(Manifest.model_validate(content), HubAddress("ada/cam"), None)
    assert "Its statistics are not known" in card
    assert "Not measured. `svg-eval`" in card
    assert "None" not in card


@pytest.mark.parametrize("licence", ["mit", "no", "null", "on", "1.0", "0x10", "1e3", "2026-01-01", "other", "cc-by-4.0"])
def test_any_licence_is_text_to_yaml(licence):
    card = model_card(camera(), HubAddress("ada/cam"), licence)
    assert yaml.safe_load(card.split("---")[1])["license"] == licence
    assert licence_of(card) == licence


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ('---\nlicense: "no"\n---\n', "no"),
        ("---\nlicense: 'mit'\n---\n", "mit"),
        ("---\nlicense: \"mit'\n---\n", None),
        ("---\ntags:\n- a\nlicense:  apache-2.0 \n---\n# t\n", "apache-2.0"),
        ("---\ntags: []\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_the_licence_of_a_card(card, licence):
    assert licence_of(card) == licence
