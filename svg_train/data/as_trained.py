"""The data of a trained model: that of its training unless the user names others. One rule for all code that opens it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TIME_BASES = ("frame_step", "frame_interval_s")


def settings_as_trained(
    trained: Mapping[str, Any], trained_s: float | None, given: Mapping[str, Any]
) -> tuple[dict[str, Any], float | None]:
    """The [data] settings of a training, overridden by the user's.

    Split and scenes of the same data set stay as they were, or held-out frames would have been trained on. That also needs the
    `n_past` and `n_future` of the training: which video gives the interval depends on them.

    Args:
        trained: the settings of the training, as far as known; at least the name.
        trained_s: seconds per step of the model, which it keeps on any data; None: not known.
        given: the user's settings; None means not given.

    Returns:
        The settings, and the `trained_s` of `open_data`: None if the user has chosen another interval.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    base = dict(trained)
    if chosen.get("name", base["name"]) != base["name"]:
        base = {"frame_interval_s": trained_s}
    if any(name in chosen for name in _TIME_BASES):
        base = {name: value for name, value in base.items() if name not in _TIME_BASES}
        trained_s = None
    return {**base, **chosen}, trained_s
