"""The record of an alarm: a line of `--events`, the body of a webhook, an MQTT message, the input of a command."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from svg_runtime.live.alarms.signal_names import SignalName


def _encodable(text: str) -> str:
    """Names of files may hold bytes that are not text; they are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


_Name = Annotated[str, AfterValidator(_encodable)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Peak(_Frozen):
    """The largest value of each signal during the alarm; None: it was not known."""

    combined: float | None = None
    surprise: float | None = None
    error: float | None = None
    motion: float | None = None
    scene: float | None = None
    camera_motion: float | None = None


class Files(_Frozen):
    """What was saved, as paths; None: nothing, or it could not be written."""

    clip: _Name | None = None  # MP4, from before to after the start
    picture: _Name | None = None  # PNG, the expected and the real frame side by side


class AlarmRecord(_Frozen):
    """One alarm: sent when it starts, and sent and written when it has ended."""

    # The number grows when a reader of the old one would misread the new one.
    schema_name: Literal["svg-edge/alarm/1"] = Field(default="svg-edge/alarm/1", alias="schema")
    sequence: int = Field(ge=1)  # see `AlarmNumbers`
    phase: Literal["started", "ended"]
    camera: str | None = None  # name of one of several; left out where there is one
    source: _Name  # without user and password
    model: _Name
    signal: SignalName  # that was compared with the threshold
    threshold: float
    start: AwareDatetime  # of the first frame at the threshold
    end: AwareDatetime | None = None  # of the last frame that was not below the level at which it clears
    duration_s: float | None = None  # in the time of the source
    position_s: float  # of the start in the source, from its first picture
    peak: Peak
    files: Files = Files()

    def to_json(self) -> str:
        """One line."""
        return self.model_dump_json(by_alias=True, exclude={"camera"} if self.camera is None else None)
