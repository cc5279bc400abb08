"""`--config`, `--only` and `--print-config`, with every option that the command has."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import typer
from typer.main import get_command

from svg_common.errors import UsageError
from svg_common.journal import JournalStream
from svg_common.toml_files import read_toml, toml_lines
from svg_runtime.live.cli import app, live
from svg_runtime.live.config.configured import configured
from svg_runtime.live.config.live_config import ALTERNATIVES
from svg_runtime.live.config.settings import Setting, settings_of
from svg_runtime.live.config.variables import escape, expand, has_password

COMMAND = get_command(app)
SETTINGS = settings_of(live.__wrapped__)
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "live.toml"
HARD_TEXT = 'ü "quoted" \\ $${A} ${B} \x7f \U0001f600'


class Recorder:
    """A command with one option of every kind, which keeps what it was called with."""

    def __init__(self) -> None:
        self.app = typer.Typer()
        self.app.command()(configured(self.command))
        self.values: dict[str, Any] = {}

    def command(
        self,
        context: typer.Context,
        number: Annotated[int, typer.Option(min=1, max=9)] = 3,
        rate: Annotated[float | None, typer.Option(min=0.0)] = None,
        shade: Annotated[Literal["red", "blue"], typer.Option()] = "red",
        mode: Annotated[Literal["a", "90"] | None, typer.Option("--mode")] = None,
        source: Annotated[str | None, typer.Option(metavar="FILE|URL")] = None,
        model: Annotated[str | None, typer.Option(metavar="DIR|NAME")] = None,
        out: Annotated[Path | None, typer.Option()] = None,
        camera: Annotated[int | None, typer.Option()] = None,
        names: Annotated[list[str] | None, typer.Option("--name")] = None,
        size: Annotated[tuple[int, int] | None, typer.Option()] = None,
        quiet: Annotated[bool, typer.Option("--quiet")] = False,
        graph: Annotated[bool | None, typer.Option("--graph/--no-graph")] = None,
        run: Annotated[str | None, typer.Option(metavar="COMMAND")] = None,
    ) -> None:
        self.values = {key: value for key, value in locals().items() if key not in ("self", "context")}

    def run(self, *arguments: str) -> dict[str, Any]:
        get_command(self.app)(list(arguments), standalone_mode=False)
        return self.values


def write(path: Path, *lines: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def printed(capsys, *arguments: str) -> str:
    COMMAND([*arguments, "--print-config"], standalone_mode=False)
    return capsys.readouterr().out


def sample(setting: Setting) -> list[str]:
    """Words that give the option a value other than its default."""
    kind, name = setting.annotation, f"--{setting.key.replace('_', '-')}"
    if kind is bool:
        return [name]
    if get_origin(kind) is Literal:
        return [name, get_args(kind)[-1]]
    if get_origin(kind) is list:
        kind = get_args(kind)[0]
    if kind in (int, float):
        return [name, str((setting.option.min or 0) + 6)]
    assert kind in (str, Path), f"add a sample of {kind}"
    return [name, HARD_TEXT]


@pytest.mark.parametrize("key", SETTINGS)
def test_every_option_comes_back_from_what_print_config_writes(key, tmp_path, monkeypatch, capsys):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    before = printed(capsys)
    text = printed(capsys, *sample(SETTINGS[key]))
    assert text != before
    config = write(tmp_path / "elsewhere" / "live.toml", text)
    assert key in read_toml(Path(config))
    assert printed(capsys, "--config", config) == text


def test_the_file_can_say_all_that_the_command_line_can():
    """And the alternatives are options."""
    options = {option.name: option for option in COMMAND.params}
    eager = {name for name, option in options.items() if option.is_eager or not option.expose_value}
    assert {setting.parameter for setting in SETTINGS.values()} == set(options) - eager
    assert {key for group in ALTERNATIVES for key in group} <= set(SETTINGS)
    assert {"config", "only", "print_config"} <= eager
    names = {name for option in options.values() for name in option.opts}
    assert {f"--{key.replace('_', '-')}" for key in SETTINGS} <= names


def test_values_reach_the_command_as_the_command_line_gives_them(tmp_path):
    lines = ["number = 4", "rate = 2", 'shade = "blue"', "mode = 90", 'source = "rtsp://host/x"', 'model = "camera"']
    lines += ['out = "o/x.mp4"', 'name = ["p", "q"]', "size = [3, 4]", "quiet = true", "graph = false", "camera = 1"]
    lines += ['run = "notify x/y"']
    config = write(tmp_path / "live.toml", *lines)
    expected = dict(number=4, rate=2.0, shade="blue", mode="90", source="rtsp://host/x", model="camera", camera=1)  # noqa: C408
    expected |= dict(out=tmp_path / "o/x.mp4", names=["p", "q"], size=(3, 4), quiet=True, graph=False)  # noqa: C408
    expected["run"] = "notify x/y"
    values = Recorder().run("--config", config)
    assert values == expected
    assert [type(value) for value in values.values()] == [type(expected[key]) for key in values]


def test_the_command_line_wins(tmp_path):
    config = write(tmp_path / "live.toml", "number = 4", "quiet = true", "graph = true", "camera = 2", 'name = ["p"]')
    values = Recorder().run("--config", config, "--number", "3", "--no-quiet", "--no-graph", "--source", "x", "--name", "q")
    assert (values["number"], values["quiet"], values["graph"], values["names"]) == (3, False, False, ["q"])
    assert (values["camera"], values["source"]) == (None, "x")  # one source replaces the other


def test_every_flag_of_a_file_can_be_taken_back(tmp_path, capsys):
    flags = [key for key, setting in SETTINGS.items() if setting.annotation is bool and "no_calibrate" not in key]
    config = write(tmp_path / "live.toml", *(f"{key} = true" for key in flags if key != "bf16"))  # which fp16 replaces
    back = [f"--{key[3:] if key.startswith('no_') else f'no-{key}'}".replace("_", "-") for key in flags]
    assert {"--no-headless", "--post-process"} <= set(back)
    text = printed(capsys, "--config", config, *back)
    assert not [key for key in flags if f"\n{key} = true" in text]
    config = write(tmp_path / "live.toml", "no_calibrate = true")
    text = printed(capsys, "--config", config, "--calibrate", "again")
    assert ("no_calibrate = true" in text, 'calibrate = "again"' in text) == (False, True)


def test_camera_0_takes_the_place_of_a_source(tmp_path):
    config = write(tmp_path / "live.toml", 'source = "udp://:1"', "[cameras.yard]", "camera = 0")
    values = Recorder().run("--config", config)
    assert (values["camera"], values["source"]) == (0, None)
    config = write(tmp_path / "flat.toml", 'source = "udp://:1"')
    values = Recorder().run("--config", config, "--camera", "0")
    assert (values["camera"], values["source"]) == (0, None)


def test_paths_are_relative_to_the_file_and_names_and_addresses_stay(tmp_path, monkeypatch):
    (tmp_path / "own.svgb").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for written, expected in {
        "clip.mp4": tmp_path / "clip.mp4", "/abs.mp4": "/abs.mp4", "~/x": tmp_path / "home/x", "udp://:1": "udp://:1",
    }.items():  # fmt: skip
        config = write(tmp_path / "live.toml", f'source = "{written}"')
        assert Recorder().run("--config", config)["source"] == str(expected)
    for written, expected in {"camera": "camera", "own.svgb": tmp_path / "own.svgb"}.items():
        config = write(tmp_path / "live.toml", f'model = "{written}"')
        assert Recorder().run("--config", config)["model"] == str(expected)


@pytest.mark.parametrize(
    ("written", "program", "arguments"),
    [
        ("./notify.sh --urgent x/y", "./notify.sh", ["--urgent", "x/y"]),
        (" bin/notify", "bin/notify", []),
        ("'./my script.sh' 'a b'", "./my script.sh", ["a b"]),
        ("./${NAME}.sh ${ARGUMENTS}", "./notify.sh", ["-a", "-b"]),
    ],
)
def test_a_program_with_a_folder_is_relative_to_the_file(written, program, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NAME", "notify")
    monkeypatch.setenv("ARGUMENTS", "-a -b")
    folder = tmp_path / "of the gate"
    config = write(folder / "live.toml", f'run = "{written}"')
    expected = [f"{folder}/{program}", *arguments]
    assert shlex.split(Recorder().run("--config", config)["run"]) == expected
    Recorder().run("--config", config, "--print-config")
    moved = write(tmp_path / "moved" / "live.toml", capsys.readouterr().out)
    assert shlex.split(Recorder().run("--config", moved)["run"]) == expected


@pytest.mark.parametrize("command", ["notify --to ./x", "/opt/notify x", "~/notify", "it's ./notify", ""])
def test_other_programs_stay_as_they_are(command, tmp_path):
    assert SETTINGS["on_alarm"].place(command, tmp_path) == command


@pytest.mark.parametrize("model", ["a.svgb", "models/a", "./camera"])
def test_a_model_that_is_no_name_is_printed_absolute_before_it_exists(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert f'model = "{tmp_path / model}"' in printed(capsys, "--model", model)
    assert 'model = "camera"' in printed(capsys, "--model", "camera")


TIMES = [key for key, setting in SETTINGS.items() if setting.option.metavar == "SECONDS"]
NUMBERS = {key: setting for key, setting in SETTINGS.items() if setting.annotation is float and key not in TIMES}
UNBOUNDED = [key for key, setting in NUMBERS.items() if setting.option.min is None]  # typer compares nan with bounds


@pytest.mark.parametrize(("key", "value"), [*((key, "inf") for key in NUMBERS), *((key, "nan") for key in UNBOUNDED)])
def test_a_number_that_is_none_is_refused(key, value):
    option = f"--{key.replace('_', '-')}"
    with pytest.raises(UsageError, match=rf"{option} is {value}\n  expected a finite number"):
        COMMAND([option, value, "--print-config"], standalone_mode=False)


@pytest.mark.parametrize("key", TIMES)
def test_a_time_is_in_seconds_or_has_a_unit(tmp_path, capsys, key):
    option = f"--{key.replace('_', '-')}"
    assert f"{key} = 120.0" in printed(capsys, option, "2m")
    for value in ("5x", "inf", "-1"):
        with pytest.raises(typer.BadParameter, match=rf"'{value}' .* expected seconds, such as 5, or another unit"):
            COMMAND([option, value, "--print-config"], standalone_mode=False)
    with pytest.raises(UsageError, match=f"{key}: '5x' .* expected seconds"):
        COMMAND(["--config", write(tmp_path / "live.toml", "alarm = true", f'{key} = "5x"')], standalone_mode=False)


def test_one_camera_of_several_is_run_over_the_values_for_all(tmp_path):
    tables = ["[cameras.gate]", 'source = "udp://:1"', '[cameras."the yard"]', "number = 5"]
    config = write(tmp_path / "live.toml", "number = 4", "camera = 0", *tables)
    gate = Recorder().run("--config", config, "--only", "gate")
    assert (gate["number"], gate["source"], gate["camera"]) == (4, "udp://:1", None)
    yard = Recorder().run("--config", config, "--only", "the yard")
    assert (yard["number"], yard["source"], yard["camera"]) == (5, None, 0)
    with pytest.raises(UsageError, match=r"has 2 cameras: gate, the yard\n.*svg-live --config .*live.toml --only gate"):
        Recorder().run("--config", config)
    with pytest.raises(UsageError, match=r"no camera 'gat'.*\n.*gate, the yard; did you mean gate\?"):
        Recorder().run("--config", config, "--only", "gat")


def test_a_camera_alone_is_run_and_only_needs_a_table(tmp_path):
    config = write(tmp_path / "live.toml", "[cameras.gate]", "camera = 3")
    assert Recorder().run("--config", config)["camera"] == 3
    with pytest.raises(UsageError, match="no --config"):
        Recorder().run("--only", "gate")
    with pytest.raises(UsageError, match=r"no table \[cameras.NAME\]; remove --only"):
        Recorder().run("--config", write(tmp_path / "flat.toml", "camera = 3"), "--only", "gate")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("shad = 1", "shad: unknown key; did you mean shade?"),
        ("xyzzy = 1", "xyzzy: unknown key; svg-live --help has all of them"),
        ('number = "4"', "number: '4'; expected a whole number"),
        ("number = 4.0", "number: 4.0; expected a whole number"),
        ("number = true", "number: true; expected a whole number"),
        ("number = 10", "number: 10 is out of bounds; expected at least 1 and at most 9"),
        ("rate = nan", "rate: nan is out of bounds; expected at least 0"),
        ("rate = inf", "rate: inf is out of bounds; expected at least 0"),
        (f"rate = 1{'0' * 400}", f"rate: 1{'0' * 59}...; expected a smaller number"),
        ('quiet = "yes"', "quiet: 'yes'; expected true or false"),
        ("out = 3", "out: 3; expected a path in quotes"),
        ('shade = "green"', "shade: 'green'; expected one of red, blue"),
        ("mode = true", "mode: true; expected one of a, 90"),
        ("size = [1]", "size: [1]; expected a list of 2 values in brackets"),
        ("name = 3", "name: 3; expected a text in quotes"),
        ("[number]\nx = 1", "number: a table; expected a value, or [cameras.NAME]"),
        ("cameras = 2", "cameras: 2; expected a table for each camera, [cameras.NAME]"),
        ("[cameras]\ngate = 2", "cameras.gate: 2; expected a table for each camera"),
        ("[cameras.gate]\nshad = 1", "cameras.gate.shad: unknown key; did you mean shade?"),
        ('source = "${NOT_SET_HERE}"', "source: the environment variable NOT_SET_HERE is not set"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(line, message, tmp_path):
    config = write(tmp_path / "live.toml", line)
    with pytest.raises(UsageError) as refused:
        Recorder().run("--config", config)
    assert str(refused.value).startswith(f"invalid configuration '{config}':\n  {message}")


def test_all_problems_are_named_at_once(tmp_path):
    with pytest.raises(UsageError, match=r"shad: .*\n  rate: .*") as refused:
        Recorder().run("--config", write(tmp_path / "live.toml", "shad = 1", 'rate = "x"'))
    assert len(str(refused.value).splitlines()) == 3


def test_an_output_does_not_overwrite_the_file(tmp_path, monkeypatch):
    config = write(tmp_path / "live.toml", "number = 4")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"an option names 'live\.toml', which is the configuration itself"):
        Recorder().run("--config", config, "--out", "live.toml")


@pytest.mark.parametrize("content", ["a = = 1", "\xff", None])
def test_a_file_that_is_not_toml_or_missing_is_refused(content, tmp_path):
    config = tmp_path / "live.toml"
    if content is not None:
        config.write_text(content, encoding="latin-1")
    with pytest.raises(UsageError, match=r"cannot read the configuration .*\n  expected a TOML file; svg-live --print-config"):
        Recorder().run("--config", str(config))


def test_variables_are_expanded_where_they_are_used_and_kept_in_print(tmp_path, monkeypatch, capsys):
    config = write(
        tmp_path / "live.toml", '[cameras.a]\nsource = "rtsp://u:${PW_A}@h/${PW_A}"', '[cameras.b]\nsource = "${PW_B}"'
    )  # fmt: skip
    monkeypatch.setenv("PW_A", "secret")
    assert Recorder().run("--config", config, "--only", "a")["source"] == "rtsp://u:secret@h/secret"  # PW_B is not needed
    text = printed(capsys, "--config", config, "--only", "a")
    assert "secret" not in text
    assert printed(capsys, "--config", write(tmp_path / "again.toml", text)) == text


@pytest.mark.parametrize("text", ["${A}", "$${A}", "$$${A}", "a${A}b${B}", "$A {A} ${} ${1}", ""])
def test_escaped_text_expands_to_itself(text):
    assert expand(escape(text)) == text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('out = ""', "out: '' is empty; expected a path in quotes, or no such key"),
        ('source = ""', "source: '' is empty; expected a text in quotes"),
        ('name = ["a", ""]', "name: '' is empty"),
        ('out = "${NOTHING}"', r"out: '\$\{NOTHING\}' is empty; set the variable"),
    ],
)
def test_an_empty_text_is_refused(line, message, tmp_path, monkeypatch):
    """As a path it would be the folder of the file."""
    monkeypatch.setenv("NOTHING", "")
    with pytest.raises(UsageError, match=message):
        Recorder().run("--config", write(tmp_path / "live.toml", line))


@pytest.mark.skipif(os.name != "posix", reason="rights of files")
def test_a_password_that_others_may_read_is_warned_about(tmp_path, capsys, monkeypatch):
    config = write(tmp_path / "live.toml", 'source = "rtsp://u:secret@h"')
    os.chmod(config, 0o644)
    Recorder().run("--config", config)
    warning = capsys.readouterr().err
    assert "chmod 600" in warning
    assert "secret" not in warning
    os.chmod(config, 0o600)
    Recorder().run("--config", config)
    assert capsys.readouterr().err == ""
    os.chmod(config, 0o644)
    with monkeypatch.context() as service:
        service.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        Recorder().run("--config", config)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr", JournalStream(sys.stderr))
    Recorder().run("--config", config)
    sys.stderr.detach()
    levels = [line[:3] for line in capsys.readouterr().err.splitlines()]
    assert levels == ["<4>", "<4>"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("rtsp://u:secret@h", True),
        ("http://h/video.mjpg?user=u&password=secret", True),
        ("http://h/video.mjpg?PWD=secret&user=u", True),
        ("https://h/hook?id=a/b&access_token=secret", True),
        ("mqtt://h/x?pass=secret#y", True),
        ("rtsp://u:${PW}@h", False),
        ("http://h/video.mjpg?user=u&pwd=${PW}&channel=1", False),
        ("rtsp://host:554/a@b", False),
        ("http://h/token/x?channel=1", False),
        ("clips/pass=1.mp4", False),
        ("http://h/v?bypass=1&compass=north", False),
    ],
)
def test_a_password_is_known_before_the_host_and_by_its_name_in_a_query(address, expected):
    assert has_password(address) == expected


def test_what_is_at_the_name_of_another_programs_source_is_a_path_of_the_file(tmp_path):
    config = write(tmp_path / "live.toml", 'source = "0"')
    assert Recorder().run("--config", config)["source"] == "0"
    (tmp_path / "0").mkdir()
    assert Recorder().run("--config", config)["source"] == str(tmp_path / "0")


@pytest.mark.parametrize("only", [(), ("--only", "gate"), ("--only", "demo")])
def test_the_example_is_read(only, monkeypatch, capsys):
    monkeypatch.setenv("GATE_PASSWORD", "secret")
    text = printed(capsys, "--config", str(EXAMPLE), *only)
    assert f'json = "{EXAMPLE.parent / "live.json"}"' in text
    assert ("[cameras.gate]" in text and "[cameras.demo]" in text) == (not only)


def test_the_page_shows_a_file_that_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GATE_PASSWORD", "secret")
    page = (EXAMPLE.parents[1] / "docs" / "live.md").read_text(encoding="utf-8")
    config = write(tmp_path / "live.toml", page.partition("```toml\n")[2].partition("```")[0])
    assert "camera = 0\n" in printed(capsys, "--config", config, "--only", "yard")


def test_written_toml_reads_back(tmp_path):
    table = {"a": HARD_TEXT, "b": "\n\t\0", "c": 1, "d": 1e300, "e": float("inf"), "f": True, "g": ["x", 2.5], "h": -0.1}
    path = tmp_path / "x.toml"
    path.write_text("\n".join(toml_lines(table)), encoding="utf-8")
    assert read_toml(path) == table
    with pytest.raises(ValueError, match="surrogates"):
        toml_lines({"a": "\udcff"})
