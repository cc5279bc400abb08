"""The options of alarms on the command line of `svg-live`."""

from __future__ import annotations

from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from svg_common.errors import UsageError
from svg_common.quantities import parse_size

_option = partial(typer.Option, rich_help_panel="Alarms")


class SignalChoice(str, Enum):
    """The signal that is compared with the threshold."""

    combined = "combined"
    surprise = "surprise"
    error = "error"
    scene = "scene"


AlarmOption = Annotated[bool, _option("--alarm", help="Raise an alarm when something unexpected happens.")]
AlarmSignalOption = Annotated[
    SignalChoice,
    _option(
        help="What raises it: the model's surprise, the error of its forecast, a changed scene, or all combined; each in "
        "robust standard deviations above what is usual here."
    ),
]
AlarmThresholdOption = Annotated[float, _option(min=0.0, metavar="Z", help="The signal from which on it is an alarm.")]
AlarmClearOption = Annotated[
    float | None, _option(min=0.0, metavar="Z", help="Below this the alarm ends. Default: half of the threshold.")
]
AlarmMinDurationOption = Annotated[
    float, _option(min=0.0, metavar="SECONDS", help="How long the signal must stay at the threshold first.")
]
AlarmHoldOption = Annotated[
    float, _option(min=0.0, metavar="SECONDS", help="How long the signal must be low before the alarm ends.")
]
AlarmCooldownOption = Annotated[
    float, _option(min=0.0, metavar="SECONDS", help="Time after an alarm in which there is no other.")
]
AlarmDirOption = Annotated[
    Path | None, _option(metavar="DIR", help="Save a clip of each alarm here, and the expected beside the real frame.")
]
AlarmBeforeOption = Annotated[float, _option(min=0.0, metavar="SECONDS", help="Of the clip before the alarm.")]
AlarmAfterOption = Annotated[float, _option(min=0.0, metavar="SECONDS", help="Of the clip after the start of the alarm.")]
AlarmBufferOption = Annotated[
    str, _option(metavar="SIZE", help="Memory for the pictures before an alarm, which are kept compressed.")
]
AlarmLimitOption = Annotated[
    str, _option(metavar="SIZE", help="Size of all alarms' files in --alarm-dir; the oldest are removed.")
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


def size_of(option: str, text: str) -> int:
    """Bytes of a size on the command line.

    Raises:
        UsageError: it is none; the message names the option.
    """
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error
