"""The options of alarms, their checks, and what they open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svg_common.errors import UsageError
from svg_common.quantities import parse_size, parsed_size
from svg_runtime.live.alarms.command import AlarmCommand
from svg_runtime.live.alarms.mqtt import MqttPublisher, check_broker
from svg_runtime.live.alarms.outlet import Outlet, Transport
from svg_runtime.live.alarms.signal_names import SignalName
from svg_runtime.live.alarms.trigger import TriggerOptions
from svg_runtime.live.alarms.webhook import Webhook
from svg_runtime.live.events import EventLog

_SIGNAL: SignalName = "combined"
_AROUND_S = 5.0
_BUFFER, _LIMIT = "64MB", "1GB"
_LEAST_BUFFER, _LEAST_LIMIT = "1MB", "10MB"  # a picture of a large camera, and a clip of it


@dataclass(frozen=True)
class AlarmOptions:
    """What is an alarm, and what follows from it.

    Attributes:
        enabled: whether there are alarms; signals are measured either way.
        signal: that is compared with the threshold.
        trigger: when an alarm starts and ends.
        folder: where clips and pictures are saved; None: nowhere.
        before_s: of the clip before the start of the alarm.
        after_s: of the clip after it.
        buffer_bytes: of compressed pictures in memory; see `ClipBuffer` for what clips may take besides.
        limit_bytes: of the files of alarms in the folder.
        events_file: gets a line per alarm.
        mqtt: address of a broker.
        webhook: address of a web server.
        command: program with arguments.
        camera: its name; None: it is alone, and has none.
    """

    enabled: bool = False
    signal: SignalName = _SIGNAL
    trigger: TriggerOptions = field(default_factory=TriggerOptions)
    folder: Path | None = None
    before_s: float = _AROUND_S
    after_s: float = _AROUND_S
    buffer_bytes: int = parse_size(_BUFFER)
    limit_bytes: int = parse_size(_LIMIT)
    events_file: Path | None = None
    mqtt: str | None = None
    webhook: str | None = None
    command: str | None = None
    camera: str | None = None

    def check(self) -> None:
        """Refuse what cannot work, before the model is opened.

        Raises:
            UsageError: a value makes no sense.
            MissingExtraError: a package is not installed.
        """
        levels = {"--alarm-threshold": self.trigger.threshold, "--alarm-clear": self.trigger.clear}
        for option, level in levels.items():  # no signal that counts is below 0: an alarm would never end
            if not 0 < level < math.inf:
                raise UsageError(f"{option} is {level:g}\n  expected a number above 0")
        seconds = {
            "--alarm-min-duration": self.trigger.min_duration_s,
            "--alarm-hold": self.trigger.hold_s,
            "--alarm-cooldown": self.trigger.cooldown_s,
            "--alarm-before": self.before_s,
            "--alarm-after": self.after_s,
        }
        for option, number in seconds.items():
            if not 0 <= number < math.inf:
                raise UsageError(f"{option} is {number:g}\n  expected a number from 0 on")
        if self.trigger.clear > self.trigger.threshold:
            raise UsageError(
                f"--alarm-clear {self.trigger.clear:g} is above the threshold, {self.trigger.threshold:g}\n"
                "  expected at most --alarm-threshold, or no alarm would last"
            )
        if self.webhook is not None:
            Webhook(self.webhook)
        if self.command is not None:
            AlarmCommand(self.command)
        if self.mqtt is not None:
            check_broker(self.mqtt)

    def open_outlets(self, source: str, events: EventLog) -> list[Outlet]:
        """Open what alarms are sent to, after `check`."""
        transports: list[Transport] = []
        if self.webhook is not None:
            transports.append(Webhook(self.webhook))
        if self.command is not None:
            transports.append(AlarmCommand(self.command))
        if self.mqtt is not None:
            transports.append(MqttPublisher(self.mqtt, source, events, self.camera))
        return [Outlet(transport, events) for transport in transports]


def alarm_options(enabled: bool, given: Mapping[str, Any]) -> AlarmOptions:
    """Read the options as they were given.

    Args:
        enabled: `--alarm`.
        given: by their names without dashes, such as alarm_threshold; None: not given.

    Raises:
        UsageError: an option without --alarm, or a size that is none, or too small.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if chosen and not enabled:
        idle = ", ".join(f"--{name.replace('_', '-')}" for name in chosen)
        raise UsageError(f"{idle} has no effect without alarms\n  add --alarm")
    standard = TriggerOptions()
    threshold = chosen.get("alarm_threshold", standard.threshold)
    trigger = TriggerOptions(
        threshold=threshold,
        clear=chosen.get("alarm_clear", threshold / 2),
        min_duration_s=chosen.get("alarm_min_duration", standard.min_duration_s),
        hold_s=chosen.get("alarm_hold", standard.hold_s),
        cooldown_s=chosen.get("alarm_cooldown", standard.cooldown_s),
    )
    return AlarmOptions(
        enabled=enabled,
        signal=chosen.get("alarm_signal", _SIGNAL),
        trigger=trigger,
        folder=chosen.get("alarm_dir"),
        before_s=chosen.get("alarm_before", _AROUND_S),
        after_s=chosen.get("alarm_after", _AROUND_S),
        buffer_bytes=parsed_size("--alarm-buffer", chosen.get("alarm_buffer", _BUFFER), _LEAST_BUFFER, "a picture of a clip"),
        limit_bytes=parsed_size("--alarm-limit", chosen.get("alarm_limit", _LIMIT), _LEAST_LIMIT, "the clip of an alarm"),
        events_file=chosen.get("events"),
        mqtt=chosen.get("mqtt"),
        webhook=chosen.get("webhook"),
        command=chosen.get("on_alarm"),
    )
