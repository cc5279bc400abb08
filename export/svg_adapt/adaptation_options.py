"""The options of an adaptation: when there is one, what may be combined, and what they ask for. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from svg_common.errors import UsageError
from svg_common.quantities import parse_duration, parsed_option, parsed_size
from svg_runtime.live.camera_arguments import source_options
from svg_runtime.live.roi import Roi, parse_roi
from svg_runtime.live.sources import SourceOptions
from svg_runtime.live.sources.foreign_names import camera_number
from svg_train.config_options import flag
from svg_train.families import FAMILIES
from svg_train.recipe_files import load_recipe
from svg_train.shipped_models import shipped_models

RECIPE = "adapt"  # of the package, unless another is given
_DEFAULT_DURATION, _DEFAULT_LIMIT, _DEFAULT_RECONNECT_S = "20m", "2GB", 60.0
_LEAST_LIMIT = "1MB"
_WHAT_A_RECORDING_IS = "a recording is kept in --out, at the model's interval, with its end held out"
# Settings of data that a recording decides itself: where it is, at which interval its pictures are, what is held out of it.
_OF_RECORDING = ("name", "root", "cache", "frame_step", "split_by")
# In a recipe, which may be for clips as well: what means the same for both, or gives way (split_by).
_IN_RECIPE = {"name": ("video",), "root": (), "cache": (), "frame_step": (1,)}


def refuse_for_recording(recipe: str, data: dict[str, Any]) -> None:
    """Refuse a recipe that decides what a recording decides itself.

    Args:
        recipe: its name.
        data: its table of that name.

    Raises:
        UsageError: it sets such a thing.
    """
    taken = [f"data.{name}" for name, fitting in _IN_RECIPE.items() if name in data and data[name] not in fitting]
    if taken:
        raise UsageError(
            f"the recipe '{recipe}' sets {', '.join(taken)}, but {_WHAT_A_RECORDING_IS}\n"
            "  remove it from the recipe; the interval is data.frame_interval_s, what is held out data.test_fraction"
        )


@dataclass(frozen=True)
class CameraRecording:
    """What to record."""

    source: SourceOptions
    roi: Roi | None  # the part of its pictures that is kept
    wanted_s: float
    limit_bytes: int


@dataclass(frozen=True)
class AdaptationOptions:
    """The options as they were given. None: not given."""

    recipe: str | None
    init: str | None
    source: str | None
    camera: int | None
    record: str | None
    record_limit: str | None
    reconnect: float | None
    camera_size: str | None = None
    camera_fps: float | None = None
    rotate: str | None = None
    source_flip: str | None = None
    roi: str | None = None

    @property
    def records(self) -> bool:
        """Whether a camera or another source is recorded."""
        return self.source is not None or self.camera is not None

    @cached_property
    def adapts(self) -> bool:
        """Whether this is an adaptation, with comparison and report, and not a training alone.

        Raises:
            UsageError: the recipe cannot be read.
        """
        return self.records or self.recipe == RECIPE or (self.init in shipped_models() and not self._recipe_chooses_model)

    @property
    def _recipe_chooses_model(self) -> bool:
        """Whether the recipe sets the family or a size, as of a model of its own."""
        table = self._recipe.get("model", {})
        free = {name for each in FAMILIES.values() for name in (*each.config.generation_fields, *each.config.training_fields)}
        return not isinstance(table, dict) or not table.keys() <= free

    @property
    def _recipe_has_clips(self) -> bool:
        table = self._recipe.get("data")
        return isinstance(table, dict) and "root" in table

    @cached_property
    def _recipe(self) -> dict[str, Any]:
        return load_recipe(self.recipe or RECIPE)

    def check(self, data: dict[str, Any], others: dict[str, bool]) -> None:
        """Refuse what contradicts itself or would have no effect.

        Args:
            data: the settings of the data that were given.
            others: options of a training that an adaptation does not have -> whether each was given.

        Raises:
            UsageError: the first problem.
        """
        if self.source is not None and self.camera is not None:
            raise UsageError("both --source and --camera were given\n  expected one of them")
        recording = {
            "--record": self.record, "--record-limit": self.record_limit, "--reconnect": self.reconnect,
            "--camera-size": self.camera_size, "--camera-fps": self.camera_fps, "--rotate": self.rotate,
            "--source-flip": self.source_flip, "--roi": self.roi,
        }  # fmt: skip
        idle = [name for name, value in recording.items() if value is not None]
        if idle and not self.records:
            raise UsageError(f"{', '.join(idle)} without anything to record\n  add --source, or remove {' '.join(idle)}")
        if not self.adapts:
            return
        wrong = [name for name, given in others.items() if given]
        if wrong:
            raise UsageError(f"{', '.join(wrong)} and an adaptation do not go together\n  remove {' '.join(wrong)}")
        if self.init is None:
            known = next(iter(shipped_models()), "FILE")
            raise UsageError(f"an adaptation needs a model to start from\n  add --init {known}, or --init with a checkpoint")
        taken = [flag("data", name) for name in _OF_RECORDING if name in data] if self.records else []
        if taken:
            raise UsageError(
                f"{', '.join(taken)} given, but {_WHAT_A_RECORDING_IS}\n"
                f"  remove {' '.join(taken)}, or --source; the interval is --frame-interval-s, what is held out --test-fraction"
            )
        if not self.records and "root" not in data and not self._recipe_has_clips:
            raise UsageError("there is nothing to adapt to\n  add --source with a camera, or --data-root with clips of it")

    def recording(self, source_fps: float | None) -> CameraRecording | None:
        """What to record; None for clips.

        Args:
            source_fps: pictures per second of a file without time stamps.

        Raises:
            UsageError: a duration, size or region cannot be read, the source is none, or an option does not apply to it.
        """
        if not self.records:
            return None
        camera = self.camera if self.source is None else camera_number(self.source)
        values = {
            "camera": camera, "source": self.source if camera is None else None, "source_fps": source_fps, "loop": False,
            "reconnect": _DEFAULT_RECONNECT_S if self.reconnect is None else self.reconnect,
            "camera_size": self.camera_size, "camera_fps": self.camera_fps, "rotate": self.rotate, "flip": self.source_flip,
        }  # fmt: skip
        source = source_options(values, realtime=False, seed=0)
        if self.reconnect is not None and source.path is not None:
            raise UsageError("--reconnect has no effect with a file, which is not waited for\n  remove it")
        return CameraRecording(
            source=source,
            roi=None if self.roi is None else parse_roi(self.roi),
            wanted_s=parsed_option("--record", parse_duration, self.record or _DEFAULT_DURATION),
            limit_bytes=parsed_size("--record-limit", self.record_limit or _DEFAULT_LIMIT, _LEAST_LIMIT, "a video"),
        )
