"""Settings of the family `frames`: which cell, its sizes, and how training mixes true frames with predicted ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from svg_train.families.base import MAX_LAYERS, MAX_SIZE, MAX_WEIGHT, FamilyConfig, check_tensor, ramp_share

if TYPE_CHECKING:
    from typing_extensions import Self

Cell = Literal["convlstm", "predrnn", "predrnn-v2", "predrnnpp", "mim", "e3d-lstm"]
Dialect = Literal["openstl-0.3", "openstl-1.0"]

CELLS_WITH_DIALECTS: tuple[Cell, ...] = ("convlstm", "predrnnpp")
_UNEQUAL: tuple[Cell, ...] = ("convlstm", "e3d-lstm")  # in the others a memory climbs through the layers
_DEFAULT_HORIZON = 10
_REVERSE_RAMP, _RAMP = (25000, 50000), (0, 50000)  # OpenSTL's

_Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]


class FramesConfig(FamilyConfig):
    """Shape of the network, and of its training's scheduled sampling."""

    generation_fields: ClassVar[tuple[str, ...]] = ("n_past", "history")
    training_fields: ClassVar[tuple[str, ...]] = ("sampling_ramp", "decouple_beta")
    default_context: ClassVar[Literal["window", "stream"]] = "stream"

    family: Literal["frames"] = Field("frames", description="Kind of model.")

    cell: Cell = Field("predrnn", description="Recurrent cell.")
    dialect: Dialect = Field(
        "openstl-1.0", description="Equations of convlstm and predrnnpp: as published, or as OpenSTL had them before 1.0."
    )
    image_width: int | None = Field(
        None, ge=8, le=1024, description="Width of the frame if it is not square; --image-size is then its height."
    )
    patch_size: int = Field(4, ge=1, le=64, description="Side of the square of pixels that becomes one position.")
    hidden: tuple[_Size, ...] = Field(
        (64, 64, 64), min_length=1, max_length=MAX_LAYERS, description="Channels of each layer, such as 64,64,64."
    )
    filter_size: int = Field(3, ge=1, le=31, description="Side of the convolutions; odd.")
    stride: int = Field(1, ge=1, le=8, description="Stride of the convolutions (e3d-lstm).")
    layer_norm: bool = Field(False, description="Layer normalization after every convolution of a gate; fixes the image size.")
    history: int | None = Field(
        None,
        ge=2,
        le=4096,
        description="Cells that the attention looks back at (e3d-lstm). Default: all of a training sequence.",
    )
    sampling_ramp: tuple[int, int] | None = Field(
        None, description="Steps between which true frames as inputs give way to predicted ones. Default: 0 50000."
    )
    decouple_beta: float = Field(0.1, ge=0, le=MAX_WEIGHT, description="Weight of the decoupling loss (predrnn-v2).")

    @field_validator("hidden", mode="before")
    @classmethod
    def _separated(cls, given: Any) -> Any:
        """A command line has the sizes as "64,64,64"."""
        return tuple(map(_number, given.split(","))) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _sizes_fit(self) -> FramesConfig:
        for side, pixels in (("height", self.height), ("width", self.width)):
            if pixels % self.patch_size:
                raise ValueError(f"the {side} of {pixels} pixels is not a multiple of patch_size {self.patch_size}")
        if self.filter_size % 2 == 0:
            raise ValueError(f"filter_size is {self.filter_size}; expected an odd number")
        if len(set(self.hidden)) > 1 and self.cell not in _UNEQUAL:
            raise ValueError(f"hidden is {_listed(self.hidden)}; the layers of {self.cell} share a memory and must be equal")
        if self.cell == "predrnnpp" and len(self.hidden) < 2:
            raise ValueError("hidden has one layer; predrnnpp needs two, with its highway between them")
        self._check_states()
        return self

    def _check_states(self) -> None:
        rows, columns = self.plane
        hidden, planes = max(self.hidden), 2 if self.cell == "e3d-lstm" else 1
        positions = f"in {rows} x {columns} positions of patch_size {self.patch_size}"
        check_tensor(f"hidden is {_listed(self.hidden)}, {positions}", (planes * hidden, rows, columns))
        if self.cell == "e3d-lstm":
            past = (self.history_length, planes * rows * columns, hidden)
            check_tensor(f"history is {self.history_length}, {positions}, two frames at a time", past)

    @model_validator(mode="after")
    def _settings_apply(self) -> FramesConfig:
        """A setting that the cell does not have must have its default."""
        owners = {
            "dialect": CELLS_WITH_DIALECTS,
            "stride": ("e3d-lstm",),
            "history": ("e3d-lstm",),
            "decouple_beta": ("predrnn-v2",),
        }
        for name, cells in owners.items():
            if self.cell not in cells and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} does not apply to cell '{self.cell}', only to {', '.join(cells)}; remove it")
        if self.sampling_ramp is not None and not 0 <= self.sampling_ramp[0] <= self.sampling_ramp[1]:
            raise ValueError(f"sampling_ramp must be two steps in ascending order, not {list(self.sampling_ramp)}")
        return self

    @property
    def width(self) -> int:
        """Of the frame, in pixels."""
        return self.image_width or self.image_size

    @property
    def noise_dim(self) -> int:
        """There are no latents: one future."""
        return 0

    @property
    def prior_kind(self) -> Literal["none"]:
        """There are no latents."""
        return "none"

    @property
    def plane(self) -> tuple[int, int]:
        """Height and width of a feature map."""
        return self.height // self.patch_size, self.width // self.patch_size

    @property
    def patch_channels(self) -> int:
        """Channels of a frame as patches."""
        return self.patch_size**2 * self.channels

    @property
    def history_length(self) -> int:
        """Cells in the history of E3D-LSTM: as many as there are steps makes it equal to an unbounded one."""
        return self.history or _steps(self.n_past, _DEFAULT_HORIZON)

    def trained_for(self, n_future: int) -> Self:
        """With a history as long as training sequences, unless the user chose its length."""
        if self.cell != "e3d-lstm" or self.history is not None:
            return self
        return self.model_validate({**self.model_dump(), "history": _steps(self.n_past, n_future)})

    def after_training(self) -> Self:
        """Reading its own predictions, as at the end of the ramp."""
        return self.model_copy(update={"sampling_ramp": (0, 0)})

    def training_noise(self, frames: int) -> tuple[int, int]:
        """One draw per step and sequence decides whether the step reads a true frame."""
        return frames - 1, 1

    def true_frame_shares(self, step: int) -> tuple[float, float]:
        """Probabilities at an optimizer step that training reads a true frame instead of its own prediction.

        Returns:
            that of the frames 1 ... n_past - 1, and that of later ones. Scheduled sampling (Bengio et al. 2015): 1, and a
            linear fall to 0. Reverse scheduled sampling (Wang et al. 2021, PredRNN.v2): 0.5 and 0.5, then the former rises
            exponentially and the latter falls linearly, until they are 1 and 0.
        """
        reverse = self.cell == "predrnn-v2"
        done = ramp_share(step, self.sampling_ramp or (_REVERSE_RAMP if reverse else _RAMP))
        highest = 0.5 if reverse else 1.0
        later = highest * (1 - done)
        if not reverse:
            return 1.0, later
        return 1.0 if done == 1.0 else 1 - 0.5 * math.exp(-5 * done), later


def _steps(n_past: int, n_future: int) -> int:
    """Steps of the network over a sequence; at least the two that a history can have."""
    return max(n_past + n_future - 1, 2)


def _number(text: str) -> int | str:
    """The number that a text has; another text stays, for the field to refuse."""
    try:
        return int(text)
    except ValueError:
        return text


def _listed(sizes: tuple[int, ...]) -> str:
    return ",".join(map(str, sizes))
