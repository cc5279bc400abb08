"""The signals that can raise an alarm."""

from __future__ import annotations

from typing import Literal, get_args

from svg_common.errors import UsageError

SignalName = Literal["combined", "surprise", "error", "motion", "scene", "camera_motion"]
SIGNALS: tuple[SignalName, ...] = get_args(SignalName)


def check_signal(signal: SignalName, surprise_unit: str | None, camera: str | None = None) -> None:
    """Refuse a signal that the model does not have: there would never be an alarm.

    Args:
        signal: that is compared with the threshold.
        surprise_unit: of the model, see `Forecaster`.
        camera: whose alarms these are, of several.

    Raises:
        UsageError: the model has no surprise.
    """
    if signal == "surprise" and surprise_unit is None:
        whose = "" if camera is None else f"camera '{camera}': "
        others = ", ".join(name for name in SIGNALS if name != "surprise")
        raise UsageError(f"{whose}--alarm-signal is surprise, which this model does not have\n  expected one of: {others}")
