"""What is sent and answered as JSON, as validated objects. The OpenAPI description is made of these."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from svg_runtime.forecast_options import COUNT_LIMIT
from svg_runtime.web.json_numbers import WHOLE

LARGEST_SEED = 2**53 - 1  # the largest whole number that JavaScript has exactly

What = Literal["samples", "mean", "mean_and_spread"]
Format = Literal["raw", "npy", "npz", "png", "json"]
Dtype = Literal["float32", "uint8"]
Context = Literal["window", "stream"]

Count = Annotated[int, Field(ge=1, le=COUNT_LIMIT), WHOLE]
_Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED), WHOLE]


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SessionRequest(_Request):
    """Opens a session."""

    model: str = Field(max_length=255, description="One of the names that GET /v1/models lists.")
    samples: Count = Field(8, description="Sampled futures per forecast.")
    horizon: Count = Field(10, description="Forecast steps.")
    seed: _Seed = Field(0, description="Of the noise: the same frames and seed give the same futures.")
    context: Context | None = Field(
        None,
        description="window: re-read the last frames before every forecast. stream: carry the state along. null: the model's.",
    )
    post_process: bool = Field(False, description="Correct forecasts by what came after earlier ones of the session.")


class ForecastRequest(_Request):
    """Says what to forecast and in which form; all of it may be left out, and so may the body."""

    samples: Count | None = Field(None, description="null: as the session was opened.")
    horizon: Count | None = Field(None, description="null: as the session was opened.")
    what: What = Field(
        "samples",
        description="samples: all futures. mean: their mean. mean_and_spread: their mean and their standard deviation.",
    )
    format: Format | None = Field(None, description="null: by the Accept header; raw if it names none.")
    dtype: Dtype = Field(
        "float32", description="float32 in [0, 1], or uint8, which is rounded from 255 times that. A PNG is always uint8."
    )


class FrameForm(_Answer):
    """The frame that a model sees."""

    height: int
    width: int
    channels: Literal[1, 3]
    colour_order: Literal["gray", "RGB"]


class Model(_Answer):
    """A model that this server may open."""

    name: str
    bundle_id: str
    family: str
    stochastic: bool = Field(description="false: all its samples are equal.")
    frame: FrameForm
    n_past: int = Field(description="Frames that must be observed before the first forecast.")
    frame_interval_s: float | None = Field(description="Seconds from frame to frame that the model was trained with.")
    training_horizon: int
    context: Context = Field(description="Unless a session asks for another.")
    surprise_unit: str | None
    backend: str = Field(description="What computes it.")


class Models(_Answer):
    """All models of this server."""

    models: tuple[Model, ...]


class Session(_Answer):
    """An open session."""

    id: str = Field(pattern="^[0-9a-f]{16}$")
    model: str
    samples: int
    horizon: int
    seed: int
    context: Context
    post_process: bool
    frame: FrameForm
    n_past: int
    frame_interval_s: float | None
    surprise_unit: str | None
    observed: int = Field(description="Frames since it was opened or reset.")
    missing: int = Field(description="Frames to observe before a forecast; 0: ready.")
    idle_timeout_s: float = Field(description="Seconds without a request, after which it is closed.")


class Sessions(_Answer):
    """All open sessions."""

    sessions: tuple[Session, ...]


class Score(_Answer):
    """How good one earlier forecast of the observed frame was: mean squared errors of pixels in [0, 1]."""

    lead: int = Field(description="Frames from that forecast to this frame.")
    mse_best: float = Field(description="Of the closest sample.")
    mse_mean: float = Field(description="Of the mean over samples.")
    mse_model: float = Field(description="Of the mean before post_process; without it the same.")
    mse_repeat: float = Field(description="Of repeating the last frame before that forecast.")


class Observation(_Answer):
    """What a frame says about the model's expectations."""

    index: int = Field(description="0 for the first frame since the session was opened or reset.")
    surprise: float | None = Field(description="In surprise_unit of the session; null for the first frames.")
    scores: tuple[Score, ...] = Field(description="Of earlier forecasts of this frame, shortest lead first.")
    missing: int = Field(description="Frames to observe before a forecast; 0: ready.")


class ForecastSummary(_Answer):
    """A forecast in a few numbers."""

    index: int = Field(description="Of the last observed frame: step 1 is one frame later.")
    samples: int
    horizon: int
    spread: tuple[float, ...] = Field(description="Per step: standard deviation over samples, averaged over pixels.")
    change: tuple[float, ...] = Field(
        description="Per step: absolute difference of the samples' mean from the last observed frame, averaged over pixels."
    )


class Health(_Answer):
    """The server answers."""

    status: Literal["ok"]
    version: str
    sessions: int
    max_sessions: int


class Problem(_Answer):
    """What went wrong (RFC 9457)."""

    type: str = Field(description="Address of a paragraph about this kind of problem.")
    title: str
    status: int
    detail: str = Field(description="What was given, or has happened.")
    expected: str | None = Field(None, description="What would have been right.")
    advice: str | None = Field(None, description="What to do next.")
    missing: int | None = Field(None, description="not-ready: frames to observe before a forecast.")
