"""The options of alarms, their checks, and what they open."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from svg_common.errors import UsageError
from svg_common.outputs import require_writable_folder
from svg_runtime.live.alarms.command import AlarmCommand
from svg_runtime.live.alarms.mqtt import MqttPublisher, check_broker
from svg_runtime.live.alarms.outlet import Outlet, Transport
from svg_runtime.live.alarms.record import SignalName
from svg_runtime.live.alarms.trigger import TriggerOptions
from svg_runtime.live.alarms.webhook import Webhook
from svg_runtime.live.events import EventLog


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
        buffer_bytes: of compressed pictures in memory.
        limit_bytes: of the files of alarms in the folder.
        events_file: gets a line per alarm.
        mqtt: address of a broker.
        webhook: address of a web server.
        command: program with arguments.
    """

    enabled: bool = False
    signal: SignalName = "combined"
    trigger: TriggerOptions = field(default_factory=TriggerOptions)
    folder: Path | None = None
    before_s: float = 5.0
    after_s: float = 5.0
    buffer_bytes: int = 64_000_000
    limit_bytes: int = 1_000_000_000
    events_file: Path | None = None
    mqtt: str | None = None
    webhook: str | None = None
    command: str | None = None

    def check(self) -> None:
        """Refuse what cannot work, before the model is opened.

        Raises:
            UsageError: an option without --alarm, or with a value that makes no sense.
            OutputError: the folder cannot be written.
            MissingExtraError: a package is not installed.
        """
        unset = AlarmOptions()._settings()
        given = [option for option, value in self._settings().items() if value != unset[option]]
        if given and not self.enabled:
            raise UsageError(f"{given[0]} has no effect without alarms\n  add --alarm")
        for option, number in self._numbers().items():
            if not 0 <= number < math.inf:
                raise UsageError(f"{option} is {number:g}\n  expected a number from 0 on")
        if self.trigger.clear > self.trigger.threshold:
            raise UsageError(
                f"--alarm-clear {self.trigger.clear:g} is above the threshold, {self.trigger.threshold:g}\n"
                "  expected at most --alarm-threshold, or no alarm would last"
            )
        if self.folder is not None:
            require_writable_folder(self.folder)
        if self.webhook is not None:
            Webhook(self.webhook)
        if self.command is not None:
            AlarmCommand(self.command)
        if self.mqtt is not None:
            check_broker(self.mqtt)

    def _settings(self) -> dict[str, object]:
        """By option: all but --alarm itself."""
        return {
            "--alarm-dir": self.folder,
            "--events": self.events_file,
            "--mqtt": self.mqtt,
            "--webhook": self.webhook,
            "--on-alarm": self.command,
            "--alarm-signal": self.signal,
            **self._numbers(),
        }

    def _numbers(self) -> dict[str, float]:
        return {
            "--alarm-threshold": self.trigger.threshold,
            "--alarm-clear": self.trigger.clear,
            "--alarm-min-duration": self.trigger.min_duration_s,
            "--alarm-hold": self.trigger.hold_s,
            "--alarm-cooldown": self.trigger.cooldown_s,
            "--alarm-before": self.before_s,
            "--alarm-after": self.after_s,
            "--alarm-buffer": self.buffer_bytes,
            "--alarm-limit": self.limit_bytes,
        }

    def open_outlets(self, source: str, events: EventLog) -> list[Outlet]:
        """Open what alarms are sent to, after `check`."""
        transports: list[Transport] = []
        if self.webhook is not None:
            transports.append(Webhook(self.webhook))
        if self.command is not None:
            transports.append(AlarmCommand(self.command))
        if self.mqtt is not None:
            transports.append(MqttPublisher(self.mqtt, source, events))
        return [Outlet(transport, events) for transport in transports]
