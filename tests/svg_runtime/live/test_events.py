"""Kinds of events, which programs filter by: all are documented; and the totals of several cameras."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from svg_runtime.live.alarms.command import AlarmCommand
from svg_runtime.live.alarms.mqtt import MqttPublisher
from svg_runtime.live.alarms.webhook import Webhook
from svg_runtime.live.events import EventLog
from svg_runtime.live.run_stats import RunStats
from tests.svg_runtime.live.page.page_helpers import make_stats

ROOT = Path(__file__).parents[3]
VALUES = {  # of what stands in braces in kinds that are put together
    "self.name": (MqttPublisher.name, Webhook.name, AlarmCommand.name),
    "direction": ("fewer", "more"),
    "not_done": ("saved", "removed"),
}
NEVER = {"mqtt_stopped", "webhook_stopped", "command_back"}  # only programs are stopped, and one is only put off at the end


def calls(tree: ast.AST) -> Iterator[tuple[str, str, ast.expr]]:
    """Name of the object, of the method and the first argument of every call of a method with two arguments or more."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) >= 2:
            yield ast.unparse(node.func.value).rpartition(".")[2].lstrip("_"), node.func.attr, node.args[0]


def texts(kind: ast.expr) -> set[str]:
    """The texts that an expression may be: a literal, or an f-string of one of `VALUES`."""
    if isinstance(kind, ast.Constant):
        return {kind.value}
    assert isinstance(kind, ast.JoinedStr), ast.unparse(kind)
    found = {""}
    for part in kind.values:
        ends = (part.value,) if isinstance(part, ast.Constant) else VALUES[ast.unparse(part.value)]
        found = {text + end for text in found for end in ends}
    return found


def kinds_in(source: str) -> set[str]:
    """The kinds of events that a file adds, by itself or through a method of its own with a parameter `kind`."""
    tree = ast.parse(source)
    added = [kind for name, method, kind in calls(tree) if name == "events" and method in ("add", "once")]
    through = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and "kind" in [parameter.arg for parameter in node.args.args[:2]]
        if any(name == "events" and ast.unparse(kind) == "kind" for name, _, kind in calls(node))
    }
    added += [kind for name, method, kind in calls(tree) if name == "self" and method in through]
    return set().union(*(texts(kind) for kind in added if ast.unparse(kind) != "kind"))


def test_the_reader_of_kinds_finds_all_ways_to_add_one():
    source = (
        "class A:\n"
        "  def f(self):\n"
        "    self._events.add('a', m)\n"
        "    camera.stats.events.once('b', m)\n"
        "    events.add(f'{self.name}_c', m)\n"
        "    self._say('d', m)\n"
        "    names.add('e', m)\n"
        "  def _say(self, kind, m):\n"
        "    self._events.add(kind, m)\n"
    )
    assert kinds_in(source) == {"a", "b", "d", "mqtt_c", "webhook_c", "command_c"}


def documented_kinds() -> list[str]:
    """Those in the first column of the table of kinds."""
    table = (ROOT / "docs" / "events.md").read_text(encoding="utf-8").partition("| kind |")[2]
    return [kind for row in re.findall(r"^\| (`.*?) \|", table, re.M) for kind in re.findall(r"`(\w+)`", row)]


def test_every_kind_of_event_is_documented_and_no_other():
    files = (ROOT / "runtime" / "svg_runtime").rglob("*.py")
    in_code = set().union(*(kinds_in(file.read_text(encoding="utf-8")) for file in files))
    documented = documented_kinds()
    assert len(documented) == len(set(documented))
    assert set(documented) == in_code - NEVER
    assert in_code >= NEVER


def test_kinds_that_svg_forecast_documents_are_some_of_these():
    text = (ROOT / "docs" / "offline.md").read_text(encoding="utf-8")
    offline = set(re.findall(r"`(\w+)`", re.findall(r"^\| `kind` \| (.*) \|$", text, re.M)[0]))
    assert offline
    assert offline <= set(documented_kinds())


def test_counts_of_several_cameras_are_totals():
    process, cameras = EventLog(), [make_stats(), make_stats()]
    process.add("too_slow", "even 2 samples are too much")
    process.add("record_failed", "the disk is full")
    for camera in cameras:
        camera.name = f"camera-{id(camera)}"
        camera.events.add("record_failed", "the disk is full, too")
    cameras[0].events.add("camera_lost", "the camera stopped")
    run = RunStats({}, cameras, process)
    summary = run.summary()
    assert summary["events"]["counts"] == {"too_slow": 1, "record_failed": 3, "camera_lost": 1}
    assert summary["events"]["messages"] == ["even 2 samples are too much", "the disk is full"]
    assert [sum(each["events"]["counts"].values()) for each in summary["cameras"].values()] == [2, 1]


def test_what_follows_the_end_of_the_last_camera_does_not_count_as_time_of_the_run(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("svg_runtime.live.stats.time.monotonic", lambda: now[0])
    cameras = [make_stats(), make_stats()]
    run = RunStats({}, cameras, EventLog())
    for number, camera in enumerate(cameras):
        camera.name = f"camera-{number}"
        camera.taken = 30
        now[0] += 10
        camera.end("end of source")
        now[0] += 10
        durations = [run.summary()["duration_s"] for _ in range(2)]
        assert durations == [20.0 if number == 0 else 30.0] * 2
    assert run.summary()["fps"] == 2.0


def test_who_listens_late_hears_the_first_events_and_each_of_the_others_once():
    events, heard = EventLog(), []
    for number in range(25):
        events.add("loop", f"round {number}")
    events.listen(lambda kind, message: heard.append((kind, message)))
    assert heard == [("loop", f"round {number}") for number in range(20)]
    heard.clear()
    events.add("camera_lost", "the camera stopped")
    assert heard == [("camera_lost", "the camera stopped")]


def test_an_event_of_one_camera_counts_once():
    camera = make_stats()
    run = RunStats({}, [camera], camera.events)
    camera.events.add("camera_lost", "the camera stopped")
    assert run.summary()["events"]["counts"] == {"camera_lost": 1}
