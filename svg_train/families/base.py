"""What all families have: settings, and where their network and importer are. Free of torch, so that --help stays fast."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from typing_extensions import Self

    from svg_train.checkpoint import Checkpoint
    from svg_train.families.video_model import VideoModel
    from svg_train.reference.file import TorchFile

# Limits of the bundle format: a checkpoint beyond them could not be exported, and a damaged one might ask for any size.
MAX_SIZE = 65536
MAX_ELEMENTS = 1 << 28  # of a tensor of a graph, for one sample
MAX_LAYERS = 64
MAX_PAST = 1024
MAX_WEIGHT = 1e30  # of a term of the loss, and of the learning rate: products with it fit in float32


def check_tensor(settings: str, shape: tuple[int, ...]) -> None:
    """Refuse settings from which a tensor would follow that no bundle can hold: it could be trained, and never exported.

    Args:
        settings: what makes it so large.
        shape: of one sample.

    Raises:
        ValueError: it is too large.
    """
    if max(shape) > MAX_SIZE or math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(
            f"{settings}: {' x '.join(map(str, shape))} values; "
            f"a bundle has at most {MAX_SIZE} along an axis of a tensor, and {MAX_ELEMENTS} in all"
        )


def ramp_share(step: int, ramp: tuple[int, int]) -> float:
    """How much of a linear change is done at an optimizer step: 0 up to the first step of `ramp`, 1 from its second on.

    A ramp of one step is a switch: 0 before it.
    """
    start, end = ramp
    if step >= end:
        return 1.0
    return (step - start) / (end - start) if step > start else 0.0


class Frozen(BaseModel):
    """Base of all configuration: immutable, unknown keys are refused, and so is the text "5" or true for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _normalise_file_values(cls, given: Any) -> Any:
        """Read a list as a tuple and 2e4 as a whole number; refuse true for the choice 1, for which pydantic takes it."""
        if not isinstance(given, dict):
            return given
        choices = {name for name, field in cls.model_fields.items() if get_origin(field.annotation) is Literal}
        return {
            name: str(value).lower() if name in choices and isinstance(value, bool) else _plain(value)
            for name, value in given.items()
        }


def _plain(value: Any) -> Any:
    """A list as a tuple, whole floats as whole numbers; no setting is a list of lists."""
    return tuple(map(_whole, value)) if isinstance(value, list) else _whole(value)


def _whole(value: Any) -> Any:
    # As far as floats count by ones: a larger one is no number of steps.
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= 1 << 53 else value


class FamilyConfig(Frozen):
    """Settings that every family has. Each family adds its own sizes, with the paper's symbols.

    Attributes:
        z_dim: size of the flat vector of noise per sample and step; 0: deterministic, with one future.
        generation_fields: names of the settings that no weight depends on, but every forecast: the generation rule.
        training_fields: names of the settings that neither depends on: they are those of the training alone.
        default_context: how the runtime reads what was observed, unless the user says otherwise.
        shared_noise: how many of the last entries of the training noise all sequences of a batch share.
    """

    generation_fields: ClassVar[tuple[str, ...]] = ("n_past",)
    training_fields: ClassVar[tuple[str, ...]] = ()
    default_context: ClassVar[Literal["window", "stream"]] = "window"
    shared_noise: ClassVar[int] = 0

    family: str
    image_size: int = Field(64, ge=8, le=1024, description="Side of the square frame in pixels.")
    channels: Literal[1, 3] = Field(1, description="1: gray, 3: RGB.")
    n_past: int = Field(5, ge=2, le=MAX_PAST, description="Frames observed before a forecast.")

    @property
    def height(self) -> int:
        """Of the frame, in pixels."""
        return self.image_size

    @property
    def width(self) -> int:
        """Of the frame, in pixels."""
        return self.image_size

    @property
    @abstractmethod
    def noise_dim(self) -> int:
        """Size of the flat vector of noise per sample and step; 0: deterministic, with one future."""

    @property
    @abstractmethod
    def prior_kind(self) -> Literal["learned", "fixed", "none"]:
        """Of the latents: learned, N(0, I), or none in a deterministic model."""

    @property
    def has_posterior(self) -> bool:
        """Whether `VideoModel.reconstruct` takes latents from true next frames."""
        return self.prior_kind != "none"

    @property
    def context_draws(self) -> int:
        """Vectors of noise that are drawn while the n_past frames are read: one per pair of neighbours."""
        return self.n_past - 1

    def after_training(self) -> Self:
        """With its schedules of training at their ends: those of a model that has been trained, and goes on elsewhere."""
        return self

    def training_noise(self, frames: int) -> tuple[int, int]:
        """Shape without the batch of the standard normal noise that the training forward takes for `frames` frames."""
        return frames - 1, self.noise_dim

    def trained_for(self, n_future: int) -> Self:
        """With the settings that follow from the number of frames predicted in training, where the user chose none."""
        return self

    def shape(self) -> dict[str, Any]:
        """The fields that decide which weights there are and how large."""
        return self.model_dump(exclude={*self.generation_fields, *self.training_fields})

    def rule(self) -> dict[str, Any]:
        """The fields that decide how the same weights forecast."""
        return self.model_dump(include=set(self.generation_fields))


class Importer(Protocol):
    """A module that reads the checkpoints of another program. It runs no code of the file."""

    def recognizes(self, content: Any) -> bool:
        """Whether a file's unpickled content, with `StoredTensor`s in it, is one of that program's."""
        ...

    def take(self, path: Path, file: TorchFile, model_config: Path | None) -> Checkpoint:
        """Read the checkpoint.

        Args:
            path: of the file.
            file: the same, opened; it reads the tensors of its content.
            model_config: the user's file with the settings of the model; None: none was given.

        Raises:
            CheckpointError: parts are missing or contradictory, or `model_config` is needed or does not fit; all in one
                message.
        """
        ...


@dataclass(frozen=True)
class Family:
    """One entry of the registry.

    Attributes:
        name: as in `FamilyConfig.family`.
        config: its settings.
        network: "module:class" of its `VideoModel`, imported when it is built.
        importers: modules that read checkpoints of other programs, each an `Importer`.
    """

    name: str
    config: type[FamilyConfig]
    network: str
    importers: tuple[str, ...] = ()

    def build(self, config: FamilyConfig) -> VideoModel:
        """A new network with initial weights."""
        module, _, name = self.network.partition(":")
        made: VideoModel = getattr(import_module(module), name)(config)
        return made

    def importer(self, content: Any) -> Importer | None:
        """Its importer that recognizes the content of a file; None if there is none."""
        found = (cast("Importer", import_module(name)) for name in self.importers)
        return next((importer for importer in found if importer.recognizes(content)), None)
