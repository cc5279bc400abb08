"""Settings of the family `svg` (Denton and Fergus 2018; with spatial latents, Villegas et al. 2019)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from svg_train.families.base import MAX_LAYERS, MAX_SIZE, FamilyConfig, check_tensor

_STOCHASTIC_PARTS = ("z_dim", "posterior_layers", "prior_layers")
_ABSENT: dict[str, tuple[str, ...]] = {"learned": (), "fixed": ("prior_layers",), "none": _STOCHASTIC_PARTS}
_PRIOR_OF_VARIANT = {"lp": "learned", "fp": "fixed", "det": "none"}


class SvgConfig(FamilyConfig):
    """Shape of the network, and its generation rule. Sizes have the paper's symbols.

    With `latent` "spatial", h, g, z and the states are maps of an eighth of the frame's side, and g_dim, z_dim and rnn_size are
    their channels. The paper's width factors are K = nf / 64 and M = rnn_size / 512 (Villegas et al. 2019).
    """

    generation_fields: ClassVar[tuple[str, ...]] = ("n_past", "skip_lag", "last_frame_skip")

    family: Literal["svg"] = Field("svg", description="Kind of model.")
    latent: Literal["vector", "spatial"] = Field(
        "vector", description="h, g, z and states are vectors (SVG), or maps that keep positions (Villegas et al. 2019)."
    )
    backbone: Literal["dcgan", "vgg"] = Field(
        "dcgan", description="Encoder and decoder architecture; --latent spatial has a shallow vgg alone."
    )
    prior: Literal["learned", "fixed", "none"] = Field(
        "learned",
        description="Prior of the latent: learned (SVG-LP), fixed N(0, I) (SVG-FP), or none (deterministic, no latent).",
    )
    image_size: int = Field(
        64, ge=8, le=1024, description="Side of the square frame in pixels: 64 or 128; spatial: any multiple of 8, up to 1024."
    )
    nf: int = Field(64, ge=1, le=512, description="Channels of the first convolution; spatial: 64 K.")
    g_dim: int = Field(
        128, ge=1, le=MAX_SIZE, description="Size of the frame encoding h and of the predictor's output g; spatial: channels."
    )
    z_dim: int = Field(10, ge=0, le=MAX_SIZE, description="Size of the latent z; spatial: channels; 0 with --prior none.")
    rnn_size: int = Field(256, ge=1, le=MAX_SIZE, description="Hidden size of every LSTM; spatial: channels, 512 M.")
    predictor_layers: int = Field(2, ge=1, le=MAX_LAYERS, description="LSTM layers of the frame predictor.")
    posterior_layers: int = Field(1, ge=0, le=MAX_LAYERS, description="LSTM layers of the posterior; 0 with --prior none.")
    prior_layers: int = Field(
        1, ge=0, le=MAX_LAYERS, description="LSTM layers of the learned prior; 0 with --prior fixed or none."
    )
    skip_lag: Literal[0, 1] = Field(
        0, description="Frame that feeds the skips: 0, the last observed; 1, the one before (reference)."
    )
    last_frame_skip: bool = Field(False, description="Take the skips from every (predicted) frame instead of freezing them.")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Set the sizes of parts that the prior excludes to 0, and the only backbone of spatial latents."""
        if not isinstance(given, dict):
            return given
        given = _with_prior(given)
        absent = _ABSENT.get(str(given.get("prior")), ())
        backbone = {"backbone": "vgg"} if given.get("latent") == "spatial" else {}
        return {**dict.fromkeys(absent, 0), **backbone, **given}

    @model_validator(mode="after")
    def _backbone_fits_the_latent(self) -> SvgConfig:
        if self.latent == "spatial" and self.backbone != "vgg":
            raise ValueError(
                f"backbone is '{self.backbone}'; latent 'spatial' has a shallow VGG: remove it, or set it to 'vgg'"
            )
        return self

    @model_validator(mode="after")
    def _image_size_fits_the_latent(self) -> SvgConfig:
        """The convolutions of spatial latents fit maps of any size, and halve the frame three times."""
        if self.latent == "vector" and self.image_size not in (64, 128):
            raise ValueError(f"image_size is {self.image_size}; latent 'vector' needs 64 or 128")
        if self.image_size % 8:
            raise ValueError(f"image_size is {self.image_size}; latent 'spatial' needs a multiple of 8")
        if self.latent == "spatial":
            maps = f"maps of an eighth of image_size {self.image_size}"
            check_tensor(f"z_dim is {self.z_dim}, in {maps}", (self.noise_dim,))
            layers = max(self.predictor_layers, self.posterior_layers, self.prior_layers)
            state = (2 * layers * self.rnn_size, self.map_size, self.map_size)
            check_tensor(f"rnn_size is {self.rnn_size}, in {layers} layers of {maps}", state)
        return self

    @model_validator(mode="after")
    def _parts_fit_the_prior(self) -> SvgConfig:
        absent = _ABSENT[self.prior]
        for name in _STOCHASTIC_PARTS:
            size = getattr(self, name)
            if (size == 0) != (name in absent):
                wanted = "0, because it has no such part" if name in absent else "at least 1"
                raise ValueError(f"{name} is {size}; prior '{self.prior}' needs {wanted}")
        return self

    @property
    def map_size(self) -> int:
        """Side of the maps of a spatial model: h, g, z and states."""
        return self.image_size // 8

    @property
    def noise_dim(self) -> int:
        """Size of z as one flat vector; of maps, channels first, then rows, then columns."""
        return self.z_dim * (self.map_size**2 if self.latent == "spatial" else 1)

    @property
    def prior_kind(self) -> Literal["learned", "fixed", "none"]:
        """The same as `prior`."""
        return self.prior


def _with_prior(given: dict[str, Any]) -> dict[str, Any]:
    """Translate `variant`, as older checkpoints and recipes call the prior; they must stay readable."""
    prior = _PRIOR_OF_VARIANT.get(str(given.get("variant")))
    if prior is None:
        return given
    rest = {name: value for name, value in given.items() if name != "variant"}
    return {"prior": prior, **rest}  # --prior overrides such a recipe
