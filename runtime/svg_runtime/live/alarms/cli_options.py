"""The options of alarms on the command line of `svg-live`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from svg_common.seconds_option import SECONDS
from svg_runtime.live.alarms.signal_names import SignalName

_option = partial(typer.Option, rich_help_panel="Alarms")

AlarmOption = Annotated[bool, _option("--alarm", help="Raise an alarm when something unexpected happens.")]
AlarmSignalOption = Annotated[
    SignalName | None,
    _option(
        help="What raises it: the model's surprise, the error of its forecast, unusual motion, a changed scene, a "
        "camera that moves, or all combined; each in robust standard deviations above what is usual here. Default: combined."
    ),
]
AlarmThresholdOption = Annotated[
    float | None, _option(metavar="Z", help="The signal from which on it is an alarm, above 0. Default: 4.5.")
]
AlarmClearOption = Annotated[
    float | None,
    _option(metavar="Z", help="Below this the alarm ends; above 0, at most the threshold. Default: half of the threshold."),
]
AlarmMinDurationOption = Annotated[
    float | None,
    _option(**SECONDS, help="How long the signal must stay there first. Default: 0.2."),
]
AlarmHoldOption = Annotated[
    float | None, _option(**SECONDS, help="How long the signal must be low before the alarm ends. Default: 1.")
]
AlarmCooldownOption = Annotated[
    float | None, _option(**SECONDS, help="Time after an alarm in which there is no other. Default: 10.")
]
AlarmDirOption = Annotated[
    Path | None, _option(metavar="DIR", help="Save a clip of each alarm here, and the expected beside the real frame.")
]
AlarmBeforeOption = Annotated[float | None, _option(**SECONDS, help="Of the clip before the alarm. Default: 5.")]
AlarmAfterOption = Annotated[float | None, _option(**SECONDS, help="Of the clip after the start of the alarm. Default: 5.")]
AlarmBufferOption = Annotated[
    str | None,
    _option(
        metavar="SIZE",
        help="Memory for the pictures before an alarm, which are kept compressed; at least 1MB. Default: 64MB.",
    ),
]
AlarmLimitOption = Annotated[
    str | None,
    _option(
        metavar="SIZE", help="Size of all alarms' files in --alarm-dir, at least 10MB; the oldest are removed. Default: 1GB."
    ),
]
EventsOption = Annotated[Path | None, _option(metavar="FILE.jsonl", help="Append a line of JSON for each alarm.")]
MqttOption = Annotated[
    str | None,
    _option(metavar="URL", help="Publish alarms, for Home Assistant too: mqtt://user:password@host:1883/prefix, or mqtts."),
]
WebhookOption = Annotated[str | None, _option(metavar="URL", help="POST each alarm as JSON to this address.")]
OnAlarmOption = Annotated[
    str | None,
    _option(metavar="COMMAND", help="Run this program for each alarm, without a shell; it gets the JSON on its input."),
]
