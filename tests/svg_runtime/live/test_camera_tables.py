"""Several cameras on the command line and in a file: who gets which value, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from svg_common.errors import ExitCode, UsageError
from svg_common.toml_files import read_toml
from svg_runtime.live import loop
from svg_runtime.live.camera_arguments import alarms_of_all, each_camera
from svg_runtime.live.camera_names import derived_names, name_problems
from svg_runtime.live.cli import app, live
from svg_runtime.live.config.camera_keys import ALARM_KEYS, CAMERA_KEYS
from svg_runtime.live.config.configured import configured
from svg_runtime.live.config.settings import settings_of
from svg_runtime.live.live_options import LiveOptions, separated
from svg_runtime.live.sources import Turn

COMMAND = get_command(app)
TABLES = """
reconnect = 5
source = "udp://:9"
alarm = true
alarm_threshold = 3.0

[cameras.gate]
source = "udp://:1"
roi = "0,0,0.5,0.5"

[cameras.yard]
camera = 0
reconnect = "2m"
alarm = false

[cameras.hall]
"""


def tables_of(tmp_path: Path, text: str, *arguments: str) -> dict[str, dict[str, Any]]:
    """What `svg-live` would run, with its own options."""
    found: dict[str, Any] = {}
    command = typer.Typer()
    signature = live.__wrapped__

    def note(**values: Any) -> None:
        found.update(values["arguments"].obj)

    note.__signature__ = __import__("inspect").signature(signature, eval_str=True)
    command.command()(configured(note, of_camera=CAMERA_KEYS))
    config = tmp_path / "live.toml"
    config.write_text(text, encoding="utf-8")
    get_command(command)(["--config", str(config), *arguments], standalone_mode=False)
    return found


def test_every_key_of_a_camera_is_an_option_and_a_parameter():
    settings = settings_of(live.__wrapped__)
    assert set(CAMERA_KEYS) <= set(settings)
    assert all(settings[key].parameter == key for key in CAMERA_KEYS)
    assert set(ALARM_KEYS) <= set(CAMERA_KEYS)


def test_a_table_stands_over_what_holds_for_all(tmp_path):
    tables = tables_of(tmp_path, TABLES)
    assert list(tables) == ["gate", "yard", "hall"]
    sources = {name: (table["camera"], table["source"]) for name, table in tables.items()}
    assert sources == {"gate": (None, ["udp://:1"]), "yard": ([0], None), "hall": (None, ["udp://:9"])}
    assert [table["reconnect"] for table in tables.values()] == [5.0, 120.0, 5.0]
    assert [table["roi"] for table in tables.values()] == ["0,0,0.5,0.5", None, None]
    assert [table["alarm"] for table in tables.values()] == [True, False, True]


def test_a_table_takes_back_how_the_pictures_of_the_others_are_turned(tmp_path):
    text = 'rotate = 180\nflip = "vertical"\n[cameras.a]\ncamera = 0\n[cameras.b]\ncamera = 1\nrotate = 0\nflip = "none"'
    turns = [Turn.of(table["rotate"], table["flip"]) for table in tables_of(tmp_path, text).values()]
    assert turns == [Turn(180, "vertical"), Turn()]


def test_options_of_alarms_may_be_for_some_cameras_alone():
    values = {**dict.fromkeys(CAMERA_KEYS), "alarm_threshold": 3.0, "alarm": True}
    on, off = alarms_of_all([values, {**values, "alarm": False}])
    assert (on.enabled, on.trigger.threshold, off.enabled) == (True, 3.0, False)
    without = [{**values, "alarm": False}] * 2
    assert [alarms.enabled for alarms in alarms_of_all(without)] == [False, False]  # of a file, which others may be run of
    with pytest.raises(UsageError, match=r"--alarm-threshold has no effect without alarms\n  add --alarm"):
        alarms_of_all(without, given=["alarm_threshold"])


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("[cameras.gate]\nalarm = true\n[cameras.yard]", ("--only", "yard")),
        ("[cameras.gate]\nalarm = true\n[cameras.yard]", ("--no-alarm",)),
        ("[cameras.gate]\nalarm = false\n[cameras.yard]\nalarm = false", ()),
        ("[cameras.gate]\nalarm = false\nmqtt = 'mqtt://h'", ("--only", "gate")),
        ("alarm = true", ("--no-alarm",)),
        ("", ("--no-alarm",)),
    ],
)
def test_options_of_alarms_that_a_file_has_do_not_stop_a_run_without_alarms(svg_live, text, arguments):
    above = "source = 'synthetic://digits'\nalarm_threshold = 6\nevents = 'e.jsonl'\n"
    Path("live.toml").write_text(above + text, encoding="utf-8")
    run = ("--config", "live.toml", *arguments, "--max-frames", "1", "--overlay", "neither")  # which is judged after alarms
    code, stderr, _ = svg_live(*run)
    assert (code, "neither" in stderr, "no effect" in stderr) == (ExitCode.USAGE, True, False), stderr
    if "--no-alarm" in arguments or "--only" in arguments:
        code, stderr, _ = svg_live(*run, "--alarm-hold", "3")
        assert (code, "--alarm-hold has no effect without alarms" in stderr) == (ExitCode.USAGE, True), stderr


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("alarm = true\n[cameras.a]\ncamera = 0\n[cameras.b]\ncamera = 1\nalarm_dir = 'x'", ()),
        ("[cameras.a]\ncamera = 0\n[cameras.b]\ncamera = 1\nalarm_dir = 'x'", ("--alarm",)),
        ("[cameras.a]\ncamera = 0\nalarm = true\n[cameras.b]\ncamera = 1\nalarm = false\nalarm_dir = 'x'", ()),
    ],
)
def test_options_of_alarms_in_a_table_are_taken_with_alarms_or_where_these_are_taken_back(text, arguments, tmp_path):
    assert tables_of(tmp_path, text, *arguments)["b"]["alarm_dir"] == tmp_path / "x"


def test_a_camera_beside_a_source_is_refused_with_what_to_write_instead():
    values = {**dict.fromkeys(CAMERA_KEYS), "camera": [0, 2], "source": ["gate.mp4"]}
    with pytest.raises(UsageError, match="--source v4l2://0 --source v4l2://2 instead of --camera,\n  or a file of --config"):
        each_camera(values, {})


def test_the_command_line_wins_over_tables_too(tmp_path):
    tables = tables_of(tmp_path, TABLES, "--reconnect", "1s", "--alarm")
    assert [table["reconnect"] for table in tables.values()] == [1.0, 1.0, 1.0]
    assert [table["alarm"] for table in tables.values()] == [True, True, True]


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (
            "[cameras.a]\nsamples = 2\n[cameras.b]\njson = 'x'",
            (),
            r"cameras.a.samples: holds for all.*--only a\n(.*\n)*  cameras.b.json: ",
        ),
        ("[cameras.a]\nsource = ['x', 'y']\n[cameras.b]", (), r"cameras.a.source: .* expected one, as a table is one camera"),
        ("[cameras.a]\n[cameras.b]", ("--camera", "1"), r"has 2 cameras, and --camera was given\n  .*--only a"),
        ("[cameras.a]\nsource = 'x'\n[cameras.b]\nloop = true", (), r"\n  cameras.b: has no source; expected source or camera"),
        ("[cameras.b]\nloop = true", (), r"cameras.b: has no source; .*synthetic://digits. for the synthetic camera"),
        ("[cameras.a]\nsource = 'x'\n[cameras.b]\nloop = true", ("--only", "b"), r"cameras.b: has no source"),
        ("[cameras.a]\nsource = []\n[cameras.b]\ncamera = 0", (), r"cameras.a: has no source"),
        ("[[camera]]\nsource = 'x'", (), r"camera: a table; expected a value, or \[cameras.NAME\]"),
        ("[cameras.a]\n[cameras.'b/c']", (), "'b/c' cannot be the name of a camera"),
        ("[cameras.a]\n[cameras.A]", (), "differ by case alone"),
        ("[cameras.a]\nsource = 'x'\ncamera = 0\n[cameras.b]\ncamera = 1", (), "cameras.a: has both camera and source"),
        ("source = 'x'\ncamera = 0\n[cameras.a]\n[cameras.b]\ncamera = 1", (), "cameras.a: has both camera and source"),
        ("camera = 0\nevents = 'x'", (), r"':\n  events: has no effect without alarms; add alarm = true, or --alarm$"),
        ("events = 'x'\n[cameras.a]\ncamera = 0\n[cameras.b]\ncamera = 1", (), r"':\n  events: has no effect without alarms"),
        ("[cameras.a]\ncamera = 0\nevents = 'x'", (), r"':\n  cameras.a.events: .* add alarm = true to this table"),
        ("[cameras.a]\ncamera = 0\n[cameras.b]\nevents = 'x'", ("--only", "b"), "cameras.b.events: has no effect"),
        ("[cameras.'b/c']\ncamera = 0", (), "'b/c' cannot be the name of a camera"),
        (
            "alarm_hold = 3.0\n[cameras.a]\ncamera = 0\nalarm = true\n[cameras.b]\ncamera = 1\nalarm_dir = 'x'\nmqtt = 'y'",
            (),
            r"':\n  cameras.b.alarm_dir: has no effect without alarms; add alarm = true .*\n  cameras.b.mqtt: has no effect",
        ),
    ],
)
def test_what_several_cameras_cannot_have_is_refused(text, arguments, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        tables_of(tmp_path, text, *arguments)


MISTAKES = """
mqtt = "${NOT_SET_1}"
rotate = 45
xyzzy = 1

[cameras.a]
source = "a.mp4"
samples = 4

[cameras.b]
source = "b.mp4"
camera = 0
roi = 3

[cameras."c d"]
source = ["b.mp4", "c.mp4"]
list-cameras = true

[cameras.A]
webhook = "${NOT_SET_2}"
"""


def refusal(tmp_path: Path, text: str, *arguments: str) -> list[str]:
    """The lines of the message, from the second on."""
    with pytest.raises(UsageError) as refused:
        tables_of(tmp_path, text, *arguments)
    return [line.removeprefix("  ") for line in str(refused.value).splitlines()[1:]]


def test_mistakes_of_every_kind_are_refused_together(tmp_path):
    expected = [
        "rotate: 45; expected one of 0, 90, 180, 270",
        "xyzzy: unknown key; ",
        "cameras.b.roi: 3; expected a text in quotes",
        "cameras.c d.list-cameras: belongs on the command line, --list-cameras",
        "cameras.c d: 'c d' cannot be the name of a camera; ",
        "cameras.A: 'a' and 'A' differ by case alone; ",
        "cameras.a.samples: holds for all cameras of a process; ",
        "cameras.b: has both camera and source; ",
        "cameras.c d.source: ['b.mp4', 'c.mp4']; expected one, as a table is one camera",
        "cameras.A.webhook: has no effect without alarms; ",
        "cameras.A: has no source; ",
        "mqtt: has no effect without alarms; ",
        "mqtt: the environment variable NOT_SET_1 is not set; ",
        "cameras.A.webhook: the environment variable NOT_SET_2 is not set; ",
    ]
    lines = refusal(tmp_path, MISTAKES)
    assert len(lines) == len(expected), lines
    for line, beginning in zip(lines, expected, strict=True):
        assert line.startswith(beginning)


def test_what_the_command_line_or_another_camera_makes_right_is_no_mistake(tmp_path):
    """The file is wrong as such in one line, and the rest of it is not run."""
    alone = refusal(tmp_path, MISTAKES.replace("xyzzy = 1", "").replace("rotate = 45", ""), "--only", "a", "--mqtt", "mqtt://h")
    assert [line.partition(":")[0] for line in alone] == ["cameras.b.roi", "cameras.c d.list-cameras"]
    several = refusal(tmp_path, '[cameras.a]\nsamples = 2\n[cameras.b]\nmqtt = "${NOT_SET_1}"', "--camera", "1", "--mqtt", "x")
    assert [line.partition(":")[0] for line in several] == ["cameras.a.samples"]


def test_mistakes_of_a_single_camera_are_refused_together(tmp_path):
    lines = refusal(tmp_path, '[cameras.a]\nroi = 3\nmqtt = "${NOT_SET_1}"')
    assert [line.partition(": ")[0] for line in lines] == ["cameras.a.roi", "cameras.a.mqtt", "cameras.a", "cameras.a.mqtt"]


@pytest.mark.parametrize("key", ["list_cameras", "list-cameras", "version", "help", "only", "config", "print_config"])
def test_what_is_said_on_the_command_line_alone_is_no_key(key, tmp_path):
    flag = key.replace("_", "-")
    assert refusal(tmp_path, f"{key} = true") == [f"{key}: belongs on the command line, --{flag}; remove it here"]


@pytest.mark.parametrize("text", ["[cameras.a]", "camera = 0\n[cameras.a]\n[cameras.b]"])
def test_a_table_without_a_source_may_get_one_from_elsewhere(text, tmp_path, capsys):
    config = tmp_path / "live.toml"
    config.write_text(text, encoding="utf-8")
    given = [] if "camera" in text.partition("[")[0] else ["--camera", "0"]
    COMMAND(["--config", str(config), *given, "--print-config"], standalone_mode=False)
    assert "camera = 0\n" in capsys.readouterr().out


def test_a_single_camera_may_still_say_everything(tmp_path, capsys):
    config = tmp_path / "live.toml"
    config.write_text("[cameras.a]\nsamples = 2\ncamera = 1\n[cameras.b]\nsamples = 3", encoding="utf-8")
    COMMAND(["--config", str(config), "--only", "a", "--print-config"], standalone_mode=False)
    printed = capsys.readouterr().out
    config.write_text(printed, encoding="utf-8")
    tables = read_toml(config)
    assert tables["samples"] == 2
    assert list(tables["cameras"]) == ["a"]  # by which its alarms and recordings are found
    assert tables["cameras"]["a"]["camera"] == 1


def test_print_config_writes_tables_that_it_reads(tmp_path, capsys):
    config = tmp_path / "live.toml"
    config.write_text(TABLES, encoding="utf-8")
    COMMAND(["--config", str(config), "--samples", "3", "--print-config"], standalone_mode=False)
    first = capsys.readouterr().out
    config.write_text(first, encoding="utf-8")
    tables = read_toml(config)
    assert tables["samples"] == 3
    assert not set(CAMERA_KEYS) & set(tables)
    assert tables["cameras"]["yard"]["camera"] == 0
    assert "source" not in tables["cameras"]["yard"]
    COMMAND(["--config", str(config), "--print-config"], standalone_mode=False)
    assert capsys.readouterr().out == first


SHARED = """
source = "synthetic://digits"
alarm = true
alarm_dir = "alarms"
alarm_limit = "100MB"

[cameras.gate]

[cameras.yard]

[cameras.hall]
alarm = false

[cameras.roof]
alarm_dir = "roof"
"""
PICTURES = ("--record", "r", "--record-what", "camera", "--save-forecasts", "f", "--record-limit", "400MB")


def limits_of(tmp_path: Path, monkeypatch, *arguments: str) -> dict[str, tuple[int, ...]]:
    """Megabytes that each camera may write: alarms, recordings, forecasts."""
    found: list[LiveOptions] = []
    monkeypatch.setattr(loop, "run_cameras", lambda cameras, console: found.extend(separated(cameras)))
    (tmp_path / "live.toml").write_text(SHARED, encoding="utf-8")
    COMMAND(["--config", str(tmp_path / "live.toml"), "--headless", *arguments], standalone_mode=False)
    limits = {
        each.name: (each.alarms.limit_bytes, each.recording.limit_bytes, each.recording.forecasts_limit_bytes) for each in found
    }
    return {name: tuple(limit // 10**6 for limit in of_one) for name, of_one in limits.items()}


def test_a_camera_has_the_same_part_of_a_limit_beside_the_others_and_alone(tmp_path, monkeypatch):
    together = limits_of(tmp_path, monkeypatch, *PICTURES)
    assert together == {
        "gate": (50, 100, 100), "yard": (50, 100, 100), "hall": (1000, 100, 100), "roof": (100, 100, 100)
    }  # fmt: skip
    for name in together:
        assert limits_of(tmp_path, monkeypatch, *PICTURES, "--only", name) == {name: together[name]}
    alone = limits_of(tmp_path, monkeypatch, *PICTURES, "--only", "gate", "--record-what", "display")
    assert alone == {"gate": (50, 400, 100)}  # the display has one folder, whichever cameras are on it


def test_sources_of_the_command_line_are_cameras():
    values = {"camera": None, "source": ["a", "b"], "roi": "x"}
    assert each_camera(values, {}) == [{**values, "source": "a"}, {**values, "source": "b"}]
    assert each_camera({"camera": [1, 1], "source": []}, {}) == [{"camera": 1, "source": None}] * 2
    assert each_camera({"camera": None, "source": None}, {}) == [{"camera": None, "source": None}]
    with pytest.raises(UsageError, match="both --camera and --source were given"):
        each_camera({"camera": [0], "source": ["x"]}, {})


def test_names_are_those_of_folders_and_topics_and_differ():
    titles = ["gate.cam", "10.0.0.5:554", "Einfahrt S\u00fcd", "gate cam", "...", "Gate-Cam", "x" * 99]
    names = derived_names(titles)
    assert names == ["gate-cam", "10-0-0-5-554", "Einfahrt-Sud", "gate-cam-2", "camera", "Gate-Cam-3", "x" * 32]
    assert not list(name_problems(names))
    assert all(re.fullmatch(r"[\w-]+", name, re.ASCII) for name in names)
    for bad in ("", "a b", "a/b", "..", "a" * 41, "\u00fc", "#"):
        assert [name for name, problem in name_problems(["ok", bad]) if "cannot be the name of a camera" in problem] == [bad]


def test_mistakes_of_one_camera_are_refused_before_anything_runs(svg_live):
    small = ("--headless", "--max-frames", "1")
    for arguments, message in (
        (("--source", "synthetic://digits", "--source", "missing.mp4"), "no such file or folder: 'missing.mp4'"),
        (("--source", "synthetic://digits", "--source", "rtsp://h/x", "--source-fps", "3"), "--source-fps applies to files"),
        (("--camera", "0", "--camera", "1", "--source", "x"), "both --camera and --source were given"),
        (
            ("--source", "synthetic://digits", "synthetic://digits"),
            "unexpected arguments: synthetic://digits\n  expected --source before each",
        ),
        (("--source", "synthetic://digits", "--source", "synthetic://digits", "--adaptive"), "add --realtime"),
    ):
        code, stderr, _ = svg_live(*small, *arguments)
        assert (code, message in stderr) == (ExitCode.USAGE, True), stderr
