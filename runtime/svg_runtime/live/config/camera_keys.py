"""Which options each of several cameras can have for itself; all others are of the process: the model, the display, the run."""

from __future__ import annotations

# Of alarms: without --alarm they have no effect.
ALARM_KEYS = (
    "alarm_signal", "alarm_threshold", "alarm_clear", "alarm_min_duration", "alarm_hold", "alarm_cooldown", "alarm_dir",
    "alarm_before", "alarm_after", "alarm_buffer", "alarm_limit", "events", "mqtt", "webhook", "on_alarm",
)  # fmt: skip
CAMERA_KEYS = (
    "camera", "source", "source_fps", "camera_size", "camera_fps", "rotate", "flip", "roi", "loop", "reconnect",
    "alarm", *ALARM_KEYS,
)  # fmt: skip
# Below which each camera has a folder of its own; the cameras of a file share the limit.
FOLDER_KEYS = ("alarm_dir", "record", "save_forecasts")
