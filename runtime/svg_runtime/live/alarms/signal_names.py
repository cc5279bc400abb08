"""The signals that can raise an alarm."""

from typing import Literal, get_args

SignalName = Literal["combined", "surprise", "error", "motion", "scene", "camera_motion"]
SIGNALS: tuple[SignalName, ...] = get_args(SignalName)
