"""The memory that an evaluation needs, checked before the first step: later the run would fail, or exhaust the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from svg_common.errors import UsageError
from svg_common.quantities import count_text, size_text
from svg_train.config import Config
from svg_train.evaluation import BATCH

_FLOAT_BYTES = 4
_COPIES = 3  # of all forecasts of a batch: they, their differences from the truth, and the squares of these
_SEQUENCE_COPIES = 2  # of all held-out sequences: one by one, and together


def refuse_too_large(config: Config, sequences: int, device: torch.device) -> None:
    """Refuse an evaluation that cannot fit in memory.

    Args:
        config: of the run.
        sequences: held-out ones; there may be fewer than the settings ask for.
        device: of the forecasts. The sequences are in the machine's memory.

    Raises:
        UsageError: with what it would take, and which settings decide that.
    """
    model, train = config.model, config.train
    frame_bytes = model.channels * model.height * model.width
    length, at_once = model.n_past + train.eval_horizon, min(sequences, BATCH)
    of_sequences = _SEQUENCE_COPIES * sequences * length * frame_bytes
    of_forecasts = at_once * forecast_bytes(model.n_past, train.eval_horizon, train.eval_samples, frame_bytes)
    host = torch.device("cpu")
    samples, frames = count_text(train.eval_samples, "sample"), count_text(train.eval_horizon, "frame")
    refuse_beyond_memory(
        {host: of_sequences + of_forecasts} if device.type == "cpu" else {host: of_sequences, device: of_forecasts},
        f"{count_text(sequences, 'sequence')}, {at_once} of them at once, with {samples} of {frames} each",
        "a smaller --eval-horizon, --eval-samples or --eval-sequences",
    )


def forecast_bytes(n_past: int, horizon: int, samples: int, frame_values: int) -> int:
    """The least memory in which one sequence is forecast and measured, in float32.

    Args:
        n_past: observed frames.
        horizon: forecast frames of each sample.
        samples: of the sequence, all in memory.
        frame_values: channels times height times width.
    """
    return (_COPIES * samples * horizon + n_past + horizon) * frame_values * _FLOAT_BYTES


def refuse_beyond_memory(needs: Mapping[torch.device, int], what: str, expected: str) -> None:
    """Refuse an evaluation that needs more bytes than a device has.

    Args:
        needs: bytes per device.
        what: takes so much.
        expected: what to change.

    Raises:
        UsageError: with all of these.
    """
    for place, needed in needs.items():
        memory = _memory_bytes(place)
        if memory is not None and needed > memory:
            where = "this machine" if place.type == "cpu" else str(place)
            raise UsageError(
                f"an evaluation would take {size_text(needed)} of memory, but {where} has {size_text(memory)}: {what}\n"
                f"  expected {expected}"
            )


def _memory_bytes(device: torch.device) -> int | None:
    """All memory of a device; None if it does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu" or not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
