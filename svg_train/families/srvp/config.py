"""Settings of the family `srvp` (Franceschi et al. 2020)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from svg_train.families.base import MAX_LAYERS, MAX_PAST, MAX_SIZE, MAX_WEIGHT, FamilyConfig

MAX_EULER_STEPS = 256  # an exported graph contains each of them
_CHOICES = 2  # random frames of a training sequence: those of the content, and that of the skips


class SrvpConfig(FamilyConfig):
    """Shape of the network, its generation rule, and the weights in its loss that `beta` is not. Names are the paper's symbols.

    The state y and the latent z draw from one flat vector of noise per sample and frame: each uses its first ny or nz entries.
    """

    generation_fields: ClassVar[tuple[str, ...]] = ("n_past", "n_euler_steps")
    training_fields: ClassVar[tuple[str, ...]] = ("obs_scale", "beta_y", "l2_res", "res_gain")

    family: Literal["srvp"] = Field("srvp", description="Kind of model.")
    backbone: Literal["dcgan", "vgg"] = Field("dcgan", description="Encoder and decoder architecture.")
    skips: bool = Field(False, description="Skip connections from the last observed frame to the decoder.")
    image_size: Literal[64] = Field(64, description="Side of the square frame in pixels.")
    nf: int = Field(64, ge=1, le=512, description="Channels of the first convolution.")
    nhx: int = Field(128, ge=1, le=MAX_SIZE, description="Size of the frame encoding h.")
    ny: int = Field(20, ge=1, le=MAX_SIZE, description="Size of the state y.")
    nz: int = Field(20, ge=1, le=MAX_SIZE, description="Size of the latent z.")
    nt_inf: int = Field(
        5,
        ge=1,
        le=MAX_PAST,
        description="Observed frames that infer y of the first frame (the first ones) and the content w (the last ones).",
    )
    n_euler_steps: int = Field(
        1, ge=1, le=MAX_EULER_STEPS, description="Residual steps of y per frame; another number needs no new training."
    )
    inference_size: int = Field(
        256, ge=1, le=MAX_SIZE, description="Size of the content w, and of the layers that infer w, y and z."
    )
    inference_layers: int = Field(3, ge=2, le=MAX_LAYERS, description="Layers that infer y of the first frame.")
    residual_size: int = Field(
        512, ge=0, le=MAX_SIZE, description="Size of the layers of f and of the prior; 0 with --residual-layers 1."
    )
    residual_layers: int = Field(
        4, ge=1, le=MAX_LAYERS, description="Layers of the residual function f, and of the prior of z."
    )
    obs_scale: float = Field(
        1.0,
        ge=1e-6,
        le=1e6,
        description="Standard deviation of a pixel around its prediction; weights --beta-y and --l2-res.",
    )
    beta_y: float = Field(1.0, ge=0, le=MAX_WEIGHT, description="Weight of KL(posterior || N(0, I)) of y of the first frame.")
    l2_res: float = Field(1.0, ge=0, le=MAX_WEIGHT, description="Weight of the norm of the residual steps.")
    res_gain: float = Field(1.41, ge=1e-6, le=1e6, description="Gain of the initial weights of f.")

    @model_validator(mode="after")
    def _parts_fit(self) -> SrvpConfig:
        if self.nt_inf > self.n_past:
            raise ValueError(f"nt_inf is {self.nt_inf}, but only n_past, {self.n_past}, frames are observed")
        if (self.residual_size == 0) != (self.residual_layers == 1):
            wanted = "0, because one layer has no hidden size" if self.residual_layers == 1 else "at least 1"
            raise ValueError(f"residual_size is {self.residual_size}; residual_layers {self.residual_layers} needs {wanted}")
        return self

    @property
    def noise_dim(self) -> int:
        """Size of the larger of y and z."""
        return max(self.ny, self.nz)

    @property
    def prior_kind(self) -> Literal["learned"]:
        """Of the latents."""
        return "learned"

    @property
    def context_draws(self) -> int:
        """One per observed frame: y of the first frame, then z of each step to the next one."""
        return self.n_past

    def training_noise(self, frames: int) -> tuple[int, int]:
        """As while a context of `frames` frames is read, and two more entries per frame, which choose frames at random."""
        return frames, self.noise_dim + _CHOICES
