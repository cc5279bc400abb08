"""Configuration of model, data and training: typed, validated, and the same object in code, in recipes and in checkpoints."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from svg_common.errors import UsageError
from svg_common.printable import one_line
from svg_common.quantities import parse_duration
from svg_common.validation import problem_text
from svg_common.video.sampling import MAX_STEP_S, MIN_STEP_S
from svg_train.families import FAMILIES, ModelConfig
from svg_train.families.base import MAX_WEIGHT, Frozen, ramp_share
from svg_train.families.svg import SvgConfig

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_LISTED = 60  # problems in one message
# Larger values are typing errors, which would take all memory or never end.
MOST_AT_ONCE = 1 << 16  # sequences, samples or frames
_MOST_STEPS = 10**9
_FPS = (1e-6, 1e6)  # pictures per second
_EDGE_PX = (0.01, 32.0)  # thinner is no softer; wider than a digit, it is a spot of one brightness
_LEAST_CROP = 0.001  # of the side of a picture; the cache has pictures of which that is a frame of the model
_LEAST_RATE = 1e-12  # smaller steps, and gradients, change no float32 weight

# The data sets that an option applies to. frame_interval_s applies to all.
DATA_OF_OPTION: dict[str, tuple[str, ...]] = {
    "root": ("smmnist", "video", "kth", "bair"),
    "num_digits": ("digits", "smmnist"),
    "edge_px": ("digits",),
    "frame_step": ("video", "kth"),
    "source_fps": ("video",),
    "test_fraction": ("video",),
    "split_by": ("video",),
    "crop": ("video",),
    "flip": ("video",),
    "brightness": ("video",),
    "playback": ("video",),
    "camera_motion": ("video",),
    "moving": ("video",),
    "balanced": ("video",),
    "cache": ("smmnist", "video", "kth", "bair"),
}
GRAY_DATA = ("digits", "smmnist")


class DataConfig(Frozen):
    """Which sequences to train on. An option that does not apply to the data set is refused unless it has its default."""

    name: Literal["digits", "smmnist", "video", "kth", "bair"] = Field(
        "digits", description="Built-in digits, MNIST files, video files, KTH actions, or BAIR robot pushing."
    )
    root: str | None = Field(
        None,
        description="Folder of the MNIST files, a video, a folder of videos or pictures, or folder of the KTH or BAIR data.",
    )
    num_digits: int = Field(1, ge=1, le=4, description="Digits per scene (digits, smmnist).")
    edge_px: float = Field(
        1.5, ge=_EDGE_PX[0], le=_EDGE_PX[1], description="Width of the soft edge of drawn digits, in pixels (digits)."
    )
    frame_step: int = Field(1, ge=1, le=_MOST_STEPS, description="Use every n-th frame (video, kth).")
    frame_interval_s: float | None = Field(
        None,
        ge=MIN_STEP_S,
        le=MAX_STEP_S,
        description="Seconds per model step. Default for video and kth: from the file and frame_step.",
    )
    source_fps: float | None = Field(
        None,
        ge=_FPS[0],
        le=_FPS[1],
        description="Frames per second of data without time stamps, such as raw H.264 or pictures (video). "
        "Default: what the codec says; pictures: one per model step, else 10.",
    )
    test_fraction: float = Field(
        0.15, gt=0, le=1, description="Share of a video data set to hold out; 1: all of it, to evaluate on (video)."
    )
    split_by: Literal["time", "file", "end"] | None = Field(
        None,
        description="What to hold out (video): the end of each file (time), whole files (file), or the end of all files in the "
        "order of their names, as of one recording (end). Default: file from 5 videos on, else time; of an adaptation: time, "
        "or end where the ends are too short.",
    )
    crop: tuple[float, float] = Field(
        (1.0, 1.0),
        description="Smallest and largest random crop of training sequences, as shares of the largest possible one's side; "
        "held out: the central crop of the largest share (video).",
    )
    flip: bool = Field(False, description="Mirror half of the training sequences, left to right (video).")
    brightness: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Largest random change of brightness in training sequences; 0.2: 0.8 to 1.2 times (video).",
    )
    playback: tuple[float, float] = Field(
        (1.0, 1.0), description="Slowest and fastest random playback of training sequences; 2: twice as fast (video)."
    )
    camera_motion: float = Field(
        0.0, ge=0, le=1, description="Share of training sequences that are shown as by a camera that pans or zooms (video)."
    )
    moving: int = Field(
        1,
        ge=1,
        le=MOST_AT_ONCE,
        description="Random views of a training sequence; shown is the one whose observed frames change most (video).",
    )
    balanced: bool = Field(
        False, description="Draw training clips by the square root of their lengths, so that a long one counts less (video)."
    )
    cache: str | None = Field(None, description="Cache folder of decoded frames. Default: the user's cache folder.")

    @model_validator(mode="after")
    def _options_apply(self) -> DataConfig:
        for option, names in DATA_OF_OPTION.items():
            if self.name not in names and getattr(self, option) != type(self).model_fields[option].default:
                raise ValueError(f"{option} does not apply to data '{self.name}', only to {', '.join(names)}; remove it")
        return self

    @model_validator(mode="after")
    def _ranges_in_order(self) -> DataConfig:
        if not _LEAST_CROP <= self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"crop must be two shares in ascending order, from {_LEAST_CROP:g} to 1, not {list(self.crop)}")
        if not 0 < self.playback[0] <= 1 <= self.playback[1] <= MOST_AT_ONCE:
            raise ValueError(
                f"playback must be a rate up to 1 and one of at least 1, at most {MOST_AT_ONCE}, not {list(self.playback)}"
            )
        if self.camera_motion and self.crop[0] == 1:
            raise ValueError("camera_motion needs smaller crops: the largest ones leave no room to move in; add crop 0.5 1")
        return self


_MOST_WORDS = 600  # characters; a bundle has room for 1000, of which the data set needs some


class TrainConfig(Frozen):
    """How to train."""

    steps: int = Field(20000, ge=1, le=_MOST_STEPS, description="Optimizer steps.")
    duration_s: float | None = Field(
        None,
        gt=0,
        description="Train for so long instead of --steps, such as 90s, 30m or 2h; the learning rate follows the time.",
    )
    batch_size: int = Field(32, ge=1, le=MOST_AT_ONCE, description="Sequences per step, of all processes together.")
    n_future: int = Field(10, ge=1, le=MOST_AT_ONCE, description="Frames predicted after n_past during training.")
    lr: float = Field(2e-3, ge=_LEAST_RATE, le=MAX_WEIGHT, description="Peak learning rate of Adam.")
    warmup_steps: int = Field(
        200, ge=0, le=_MOST_STEPS, description="Steps of linear warm-up; the rate then decays linearly to zero."
    )
    beta: float = Field(1e-4, ge=0, le=MAX_WEIGHT, description="Weight of KL(posterior || prior).")
    beta_start: float | None = Field(
        None, ge=0, le=MAX_WEIGHT, description="Weight of the KL term before beta_ramp, without which it has no effect."
    )
    beta_ramp: tuple[int, int] = Field(
        (0, 0), description="Steps between which the weight goes linearly from beta_start to beta; needs beta_start."
    )
    gradient_clip: float = Field(1.0, ge=_LEAST_RATE, allow_inf_nan=True, description="Maximum gradient norm; inf: no limit.")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="Decay of the averaged weights that are evaluated and saved; 0: off.")
    seed: int = Field(0, ge=0, le=(1 << 64) - 1, description="Seed of weights, data order and noise.")
    eval_every: int = Field(1000, ge=1, le=_MOST_STEPS, description="Steps between evaluations on held-out sequences.")
    eval_sequences: int = Field(64, ge=1, le=MOST_AT_ONCE, description="Held-out sequences per evaluation.")
    eval_samples: int = Field(
        10, ge=1, le=MOST_AT_ONCE, description="Sampled futures per held-out sequence; the best one is scored."
    )
    eval_horizon: int = Field(10, ge=1, le=MOST_AT_ONCE, description="Forecast frames per held-out sequence.")
    save_every: int = Field(500, ge=1, le=_MOST_STEPS, description="Steps between saves of last.pt.")
    description: str | None = Field(
        None,
        min_length=1,
        max_length=_MOST_WORDS,
        description="What the training data shows, in your words, such as 'people in a hall': stored with the model, and shown "
        "by svg-live where the model does not fit. --resume keeps it.",
    )

    @field_validator("duration_s", mode="before")
    @classmethod
    def _in_seconds(cls, value: Any) -> Any:
        """Seconds, or a text with a unit, as on a command line."""
        return parse_duration(value) if isinstance(value, str) else value

    @field_validator("description", mode="before")
    @classmethod
    def _on_one_line(cls, given: Any) -> Any:
        return one_line(" ".join(given.split())) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _ramp_in_order(self) -> TrainConfig:
        if not 0 <= self.beta_ramp[0] <= self.beta_ramp[1]:
            raise ValueError(f"beta_ramp must be two steps in ascending order, not {list(self.beta_ramp)}")
        return self

    @model_validator(mode="after")
    def _annealing_is_complete(self) -> TrainConfig:
        """One has no effect without the other. A checkpoint has both by name, so that older ones stay readable."""
        given = self.model_fields_set
        if self.beta_start is not None and "beta_ramp" not in given:
            raise ValueError("beta_start has no effect without beta_ramp; add --beta-ramp FROM TO, or remove it")
        if self.beta_ramp != (0, 0) and "beta_start" not in given:
            raise ValueError("beta_ramp has no effect without beta_start; add --beta-start, or remove it")
        return self

    def beta_at(self, step: int) -> float:
        """Weight of the KL term at `step` (KL annealing)."""
        done = ramp_share(step, self.beta_ramp)
        if self.beta_start is None or done == 1.0:
            return self.beta
        return self.beta_start + done * (self.beta - self.beta_start)


class Config(Frozen):
    """The whole configuration of a run: `svg-train --config recipe.toml` reads it, and every checkpoint contains it."""

    model: ModelConfig = SvgConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.data.name in GRAY_DATA and self.model.channels != 1:
            raise ValueError(f"data '{self.data.name}' is gray: model.channels must be 1, not {self.model.channels}")
        return self

    @property
    def sequence_length(self) -> int:
        """Frames per training sequence."""
        return self.model.n_past + self.train.n_future


def build_config(*layers: dict[str, Any], texts: bool = False) -> Config:
    """Merge nested tables, later ones over earlier ones, and validate the result.

    Args:
        layers: the tables.
        texts: read "5" as a number and "False" as false, too: other programs' files have settings as texts.

    Raises:
        UsageError: every wrong or unknown key, one per line.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for table, values in layer.items():
            before = merged.get(table, {})
            if isinstance(values, dict):  # what is not a table stays, for the validation to refuse
                merged[table] = {**before, **values} if isinstance(before, dict) else before
            else:
                merged[table] = values
    try:
        config = Config.model_validate(merged, strict=False if texts else None)
        return config.model_copy(update={"model": config.model.trained_for(config.train.n_future)})
    except ValidationError as error:
        lines = [f"  {line}" for line in problem_lines(error)]
        more = [f"  and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
        raise UsageError("invalid configuration:\n" + "\n".join(lines[:_LISTED] + more)) from error


def problem_lines(error: ValidationError) -> list[str]:
    """Every wrong or unknown setting with its place, one line each."""
    return [f"{_setting_name(item['loc'])}: {_problem(item)}" for item in error.errors()]


def _problem(item: ErrorDetails) -> str:
    """What is wrong. Of a setting that only other families have, which ones."""
    place = item["loc"]
    owners = families_with(str(place[-1])) if item["type"] == "extra_forbidden" and len(place) > 1 else []
    family = next((str(part) for before, part in pairwise(place) if before == "model" and part in FAMILIES), None)
    if family is None or not owners:
        return problem_text(item)
    return f"the family '{family}' has no such setting, only {' and '.join(owners)}; remove it, or choose another family"


def families_with(setting: str) -> list[str]:
    """Names of the families that have a setting of the table model."""
    return [name for name, family in FAMILIES.items() if setting in family.config.model_fields]


def _setting_name(place: tuple[int | str, ...]) -> str:
    """The place of a problem, without the family's name that pydantic puts between the table and the setting."""
    named = [
        str(part) for before, part in zip((None, *place), place, strict=False) if before != "model" or part not in FAMILIES
    ]
    return ".".join(named) or "config"
