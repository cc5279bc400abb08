"""Settings of the family `ensemble`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from svg_train.families.base import MAX_LAYERS, MAX_SIZE, MAX_WEIGHT, FamilyConfig, check_tensor

MAP_STRIDE = 8  # pixels per position of the state
_CHOICES = 1  # entries of the training noise that choose which leads are decoded


class EnsembleConfig(FamilyConfig):
    """Shape of the network, and how it is scored in training."""

    generation_fields: ClassVar[tuple[str, ...]] = ()
    training_fields: ClassVar[tuple[str, ...]] = (
        "members",
        "leads",
        "patch_weight",
        "change_weight",
        "fairness",
        "motion_weight",
    )

    shared_noise: ClassVar[int] = _CHOICES  # in one step, the same leads of all sequences are decoded

    family: Literal["ensemble"] = Field("ensemble", description="Kind of model.")
    channels: Literal[1, 3] = Field(3, description="1: gray, 3: RGB.")
    widths: tuple[int, int, int] = Field(
        (32, 64, 96),
        description="Channels at a half, a quarter and an eighth of the frame's side, where the context is read: once.",
    )
    blocks: int = Field(2, ge=0, le=MAX_LAYERS, description="Residual blocks at each of these sizes.")
    decoder_widths: tuple[int, int] = Field(
        (24, 48), description="Channels at a half and a quarter of the side in the decoder: once per sample and step."
    )
    state_size: int = Field(64, ge=1, le=MAX_SIZE, description="Channels of the state, a map of an eighth of the frame's side.")
    noise_maps: int = Field(4, ge=0, le=MAX_SIZE, description="Noise per position of the state; at most 65536 values in all.")
    noise_vector: int = Field(8, ge=0, le=MAX_SIZE, description="Noise that all positions share.")
    members: int = Field(2, ge=2, le=64, description="Samples of each training sequence that are scored together.")
    leads: int = Field(4, ge=1, le=1024, description="Forecast frames of each training step that are decoded and scored.")
    patch_weight: float = Field(
        1.0, ge=0, le=MAX_WEIGHT, description="Weight of the energy score of patches, beside the CRPS of single pixels."
    )
    change_weight: float = Field(
        0.0,
        ge=0,
        le=MAX_WEIGHT,
        description="Weight of both scores of the change from one decoded frame to the next, so that samples move steadily.",
    )
    fairness: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Fairness of both scores; less than 1: samples are nearer to each other, and seldom quite wrong.",
    )
    motion_weight: float = Field(
        1.0,
        ge=0,
        le=MAX_WEIGHT,
        description="Weight of the error of the motion between the last two observed frames, learned by itself.",
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> EnsembleConfig:
        if self.image_size % MAP_STRIDE:
            raise ValueError(f"image_size is {self.image_size}; expected a multiple of {MAP_STRIDE}")
        for channels in (*self.widths, *self.decoder_widths):
            if not 1 <= channels <= MAX_SIZE:
                raise ValueError(f"widths and decoder_widths must be from 1 to {MAX_SIZE}, not {channels}")
        if not self.noise_dim:
            raise ValueError("noise_maps and noise_vector are both 0: all samples would be alike; expected one of them above 0")
        check_tensor(
            f"noise_maps is {self.noise_maps}, in maps of an eighth of image_size {self.image_size}, "
            f"and noise_vector is {self.noise_vector}",
            (self.noise_dim,),
        )
        observed = (self.n_past, self.channels, self.image_size, self.image_size)
        check_tensor(f"n_past is {self.n_past}, of frames of image_size {self.image_size}", observed)
        if self.change_weight and self.leads == 1:
            raise ValueError("change_weight has no effect with leads 1: no change is decoded; expected 2 leads or more")
        return self

    @property
    def map_size(self) -> int:
        """Side of the state."""
        return self.image_size // MAP_STRIDE

    @property
    def noise_dim(self) -> int:
        """Maps first (channels, rows, columns), then the vector."""
        return self.noise_maps * self.map_size**2 + self.noise_vector

    @property
    def prior_kind(self) -> Literal["fixed"]:
        """Noise is N(0, I)."""
        return "fixed"

    @property
    def has_posterior(self) -> bool:
        """There is none: noise is scored, not inferred."""
        return False

    @property
    def context_draws(self) -> int:
        """One, for what cannot be known of the moment at which a forecast starts."""
        return 1

    def training_noise(self, frames: int) -> tuple[int, int]:
        """As for `members` samples of a forecast of all frames after the context, and what chooses the leads."""
        draws = self.context_draws + max(frames - self.n_past, 0)
        return self.members * draws, self.noise_dim + _CHOICES
