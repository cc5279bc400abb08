"""All outputs of a command are checked before its work: writable, no input overwritten, no two of them the same."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from svg_common.errors import OutputError, UsageError
from svg_common.outputs import check_outputs, refuse_overwriting


@pytest.mark.parametrize(
    ("outputs", "message"),
    [({"--json": "clip.mp4"}, "--json would overwrite 'clip.mp4', which this command uses"),
     ({"--output": None, "--json": "folder/../link.mp4"}, "--json would overwrite 'folder/../link.mp4'"),
     ({"--json": "new.pt"}, "--json would overwrite 'new.pt'"),
     ({"--json": "folder/manifest.json"}, "--json would overwrite 'folder/manifest.json'"),
     ({"--output": "same", "--json": "./same"}, "--output and --json both name 'same'")],
)  # fmt: skip
def test_outputs_never_overwrite_inputs_or_each_other(tmp_path, monkeypatch, outputs, message):
    monkeypatch.chdir(tmp_path)
    for name in ("clip.mp4", "folder/manifest.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link.mp4").symlink_to("clip.mp4")
    paths = {flag: None if name is None else Path(name) for flag, name in outputs.items()}
    with pytest.raises(UsageError) as refusal:
        refuse_overwriting(paths, [None, "clip.mp4", Path("folder"), "new.pt"])
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("kind", ["files", "folders", "replaced"])
def test_a_dash_is_not_taken_for_a_name(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--out is '-', which would be a file of this name\n  expected a file, or /dev/stdout"):
        check_outputs(**{"files": {}, kind: {"--out": Path("-")}})
    check_outputs({"--out": Path("./-.json")})


def test_results_of_an_earlier_run_may_be_replaced(tmp_path):
    for name in ("old.json", "clip.mp4"):
        (tmp_path / name).touch()
    refuse_overwriting({"--json": tmp_path / "old.json", "--output": tmp_path / "folder" / "new.mp4"}, [tmp_path / "clip.mp4"])
    refuse_overwriting({"--json": Path(os.devnull), "--output": Path(os.devnull)}, [])


def test_a_file_in_a_folder_of_data_is_not_replaced_unless_it_is_an_earlier_result(tmp_path):
    clips = tmp_path / "clips"
    (clips / "deep").mkdir(parents=True)
    for name in ("a.mp4", "deep/000.png", "train-images-idx3-ubyte", "old.json", "old.html"):
        (clips / name).touch()
    for name in ("a.mp4", "deep/000.png", "train-images-idx3-ubyte"):
        with pytest.raises(UsageError, match=f"--json would overwrite '.*{name}', a file in the data '.*clips'"):
            check_outputs({"--json": clips / name}, data=[None, clips])
    check_outputs({"--json": clips / "old.json", "--page": clips / "old.html", "--plot": clips / "new.png"}, data=[clips])
    with pytest.raises(UsageError, match="which this command uses"):
        check_outputs({"--json": clips / "a.mp4"}, data=[clips / "a.mp4"])
    with pytest.raises(UsageError, match="--out would replace"):
        check_outputs({}, replaced={"--out": tmp_path}, data=[clips])


@pytest.mark.parametrize("clip", ["000.png", "a.mp4"])
def test_a_folder_of_clips_takes_no_results_but_one_beside_them_does(tmp_path, clip):
    clips = tmp_path / "data" / "clips"
    clips.mkdir(parents=True)
    (clips / clip).touch()
    (tmp_path / "link").symlink_to(clips)
    for output in (clips, tmp_path / "link"):
        for root in (clips, tmp_path / "data"):
            with pytest.raises(UsageError, match=f"--strips would write among the clips in '{output}'"):
                check_outputs({}, {"--strips": output}, data=[None, root])
    for output in (tmp_path / "data" / "new", clips / "new", tmp_path / "data", tmp_path):
        check_outputs({}, {"--strips": output}, data=[clips, tmp_path / "data"])
    check_outputs({}, {"--strips": clips}, data=[])


@pytest.fixture
def read_only(tmp_path):
    """A folder in which nobody, not even root, can write."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    folder.chmod(0o555)
    if os.geteuid():
        yield folder
        return
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("root writes everywhere, and may not mount here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_an_unwritable_folder_is_refused_and_only_the_users_names_are_shown(read_only):
    for place in ({"files": {"--json": read_only / "a.json"}}, {"files": {"--json": read_only / "new" / "a.json"}},
                  {"files": {}, "folders": {"--strips": read_only}}, {"files": {}, "folders": {"--out": read_only / "run"}},
                  {"files": {}, "replaced": {"--out": read_only / "b.svgb"}}):  # fmt: skip
        with pytest.raises(
            OutputError, match=f"cannot write '{read_only}.*': (Read-only file system|Permission denied)"
        ) as error:
            check_outputs(**place)
        assert "tmp_" not in str(error.value).replace(str(read_only), "")


@pytest.mark.parametrize(
    ("place", "reason"),
    [({"files": {"--json": "folder"}}, "Is a directory"),
     ({"files": {"--json": "file/a.json"}}, "Not a directory"),
     ({"files": {"--json": "file/new/a.json"}}, "Not a directory"),
     ({"files": {"--json": "/proc/nowhere/a.json"}}, ""),
     ({"files": {"--json": f"{'long' * 64}.json"}}, "File name too long"),
     ({"files": {"--json": "circle"}}, "symbolic links"),
     ({"files": {}, "folders": {"--out": "file"}}, "Not a directory"),
     ({"files": {}, "folders": {"--out": "file/run"}}, "Not a directory"),
     ({"files": {}, "replaced": {"--out": "file/b.svgb"}}, "Not a directory")],
)  # fmt: skip
def test_a_place_where_nothing_can_be_written_is_refused(tmp_path, monkeypatch, place, reason):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    Path("circle").symlink_to("circle")
    paths = {kind: {flag: Path(name) for flag, name in outputs.items()} for kind, outputs in place.items()}
    name = next(iter({**place["files"], **place.get("folders", {}), **place.get("replaced", {})}.values()))
    with pytest.raises(OutputError, match=f"cannot write '{name}': .*{reason}"):
        check_outputs(**paths)


def test_nothing_is_created_by_the_check(tmp_path):
    check_outputs(
        {"--json": tmp_path / "new" / "a.json", "--plot": tmp_path / "p.png"},
        folders={"--strips": tmp_path / "strips" / "deep"},
        replaced={"--out": tmp_path / "b.svgb"},
        needed=[tmp_path / "ckpt.pt", None],
    )
    assert list(tmp_path.iterdir()) == []


def test_devices_are_no_files_to_check(tmp_path):
    check_outputs({"--json": Path(os.devnull), "--plot": Path("/dev/stdout")})


CHECK = "import sys, pathlib, svg_common.outputs as outputs; outputs.check_outputs({'--json': pathlib.Path(sys.argv[1])})"


def test_stdout_is_written_to_a_pipe_too():
    assert subprocess.run([sys.executable, "-c", CHECK, "/dev/stdout"], check=True, capture_output=True).stdout == b""


def test_a_terminal_that_is_not_there_is_refused():
    command = [sys.executable, "-c", CHECK, "/dev/tty"]
    done = subprocess.run(command, check=False, capture_output=True, start_new_session=True)
    assert b"OutputError: cannot write '/dev/tty'" in done.stderr


def test_a_full_disk_is_refused_before_the_work(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        with pytest.raises(OSError, match="No space left"):
            (disk / "fill").write_bytes(bytes(1 << 16))
        with pytest.raises(OutputError, match=f"cannot write '{disk}/a.json': No space left on device"):
            check_outputs({"--json": disk / "a.json"})
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_reason_against_what_is_tried_again(tmp_path, monkeypatch, number):
    def refuse(**_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    files, folders = {"--json": tmp_path / "a.json"}, {"--record": tmp_path / "rec"}
    check_outputs(files, folders, retried=["--json", "--record"])
    for given in (["--json"], ["--record"], []):
        with pytest.raises(OutputError, match=f"{os.strerror(number)}\n.*free some space"):
            check_outputs(files, folders, retried=given)
    number = errno.EROFS
    with pytest.raises(OutputError, match="Read-only file system"):
        check_outputs(files, folders, retried=["--json", "--record"])


def test_a_folder_that_is_replaced_holds_nothing_that_is_needed(tmp_path):
    bundle = tmp_path / "b.svgb"
    bundle.mkdir()
    (bundle / "ckpt.pt").touch()
    with pytest.raises(UsageError, match=r"--json would overwrite '.*a.json'"):
        check_outputs({"--json": bundle / "a.json"}, replaced={"--out": bundle})
    with pytest.raises(UsageError, match=r"--out would replace '.*b.svgb' and '.*ckpt.pt' with it"):
        check_outputs({}, replaced={"--out": bundle}, needed=[bundle / "ckpt.pt"])
    with pytest.raises(UsageError, match="--strips would overwrite"):
        check_outputs({}, folders={"--strips": bundle}, needed=[bundle])


def test_a_new_file_may_lie_in_a_kept_folder_and_an_earlier_output_there_is_not_replaced(tmp_path):
    folder = tmp_path / "rec"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    for name in ("old.mp4", "deep/old.parquet", "old.json"):
        (folder / name).touch()
    for name in ("rec/old.mp4", "rec/deep/old.parquet", "link/old.mp4"):
        with pytest.raises(UsageError, match=f"--json would overwrite '.*{name}', a file in the folder of --record, '.*rec'"):
            check_outputs({"--json": tmp_path / name}, kept={"--record": folder})
    for name in ("new.mp4", "new.json", "old.json"):
        check_outputs({"--json": folder / name}, kept={"--record": folder, "--alarm-dir": None})


def test_what_the_shell_has_opened_is_no_earlier_output(tmp_path):
    """As `svg-live --record rec --json /dev/stdout > rec/stats`, which the shell has emptied before the program starts."""
    program = (
        "from pathlib import Path; from svg_common.outputs import check_outputs;"
        "check_outputs({'--json': Path('/dev/stdout')}, kept={'--record': Path('.')}, closed={'--triton': Path('.') / 'x'})"
    )
    with open(tmp_path / "stats", "w") as output:
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, stdout=output, check=True)


def test_lines_may_be_added_to_a_text_in_a_kept_folder_and_to_nothing_else(tmp_path):
    (tmp_path / "a.log").write_text('{"sequence": 1}\n')
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    check_outputs({"--events": tmp_path / "a.log"}, kept={"--alarm-dir": tmp_path}, appended=["--events"])
    with pytest.raises(UsageError, match=r"--events would overwrite '.*a.mp4', a file in the folder of --alarm-dir"):
        check_outputs({"--events": tmp_path / "a.mp4"}, kept={"--alarm-dir": tmp_path}, appended=["--events"])


VIDEO = b"\0\0\0\x20ftypisom"
CHECKPOINT = b"PK\3\4\0\0"  # the zip that torch.save writes
JSON = b'{\n  "psnr": 20.1\n}\n'
HTML = b"<!doctype html>\n<html>"
BOM = b"\xef\xbb\xbf"  # as editors on Windows put it first
SAVED = [b"<!-- saved from url=(0022)http://localhost:8080/ -->\n" + HTML, b"<head>\n", b"<body>\n"]  # by a browser
TEMPLATE = b"{ name }\n"


@pytest.mark.parametrize(
    ("flag", "earlier", "foreign", "what"),
    [("--json", [JSON, BOM + JSON, b"{}\n", b""],
      [VIDEO, CHECKPOINT, HTML, TEMPLATE, b"a.mp4\nb.mp4\n", b"[model]\n", b'{"\0\0\0'], "JSON"),
     ("--page", [HTML, BOM + HTML, *SAVED, b""], [VIDEO, CHECKPOINT, JSON, b"<svg>", b"a.mp4\n"], "an HTML page"),
     ("--save-checkpoint", [CHECKPOINT, b""], [VIDEO, JSON, HTML], "a checkpoint of svg-edge")],
)  # fmt: skip
def test_only_an_earlier_output_of_the_option_is_replaced_wherever_it_lies(tmp_path, flag, earlier, foreign, what):
    output = tmp_path / "output"
    for content in earlier:
        output.write_bytes(content)
        check_outputs({flag: output})
    for content in foreign:
        output.write_bytes(content)
        with pytest.raises(
            UsageError, match=f"{flag} would overwrite '.*output', which is not {what}\n  expected a new file, or"
        ):
            check_outputs({flag: output})
        assert output.read_bytes() == content


def test_lines_are_added_to_any_text_and_to_nothing_else(tmp_path):
    (tmp_path / "a.log").write_text("written by hand\n")
    (tmp_path / "a.mp4").write_bytes(VIDEO)
    check_outputs({"--events": tmp_path / "a.log"}, appended=["--events"])
    line, lost = b'{"sequence": 1}\n', bytes(20)  # NULs, as a power cut leaves them
    for content in (line + lost, line + lost + line, lost, lost + line, b"written by hand\n" + lost):
        (tmp_path / "a.log").write_bytes(content)
        check_outputs({"--events": tmp_path / "a.log"}, appended=["--events"])
    with pytest.raises(UsageError, match=r"--events would overwrite '.*a.mp4', which is not a text\n"):
        check_outputs({"--events": tmp_path / "a.mp4"}, appended=["--events"])


def test_nothing_else_is_written_into_a_closed_folder(tmp_path):
    models = tmp_path / "models"
    inside = models / "deep" / "a.json"
    for outputs in ({"files": {"--json": inside}}, {"files": {}, "folders": {"--json": inside}},
                    {"files": {}, "replaced": {"--json": inside}}):  # fmt: skip
        with pytest.raises(UsageError, match=r"--json would write '.*a.json' into '.*models', the folder of --triton"):
            check_outputs(**outputs, closed={"--triton": models})
    with pytest.raises(UsageError, match="--triton would overwrite"):
        check_outputs({}, replaced={"--out": tmp_path}, closed={"--triton": models})
    with pytest.raises(UsageError, match="both name"):
        check_outputs({"--json": models}, closed={"--triton": models})
    check_outputs({"--json": tmp_path / "a.json", "--pack": None}, closed={"--triton": models})
    check_outputs({"--json": inside}, closed={"--triton": None})


def test_an_input_is_known_by_any_of_its_names(tmp_path):
    (tmp_path / "a.mp4").touch()
    os.link(tmp_path / "a.mp4", tmp_path / "b.mp4")
    with pytest.raises(UsageError, match=r"--json would overwrite '.*b.mp4'"):
        check_outputs({"--json": tmp_path / "b.mp4"}, needed=[tmp_path / "gone.mp4", tmp_path / "a.mp4"])
