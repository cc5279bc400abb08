"""All that clients can ask for: a table, from which the routes, the OpenAPI description and the page of it are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from svg_runtime.serve import answers, frames, metrics, schema

SESSION_ID = "session_id"
HTML = "text/html"


@dataclass(frozen=True)
class Query:
    """A parameter in the query.

    Attributes:
        form: its JSON schema.
    """

    name: str
    description: str
    form: Mapping[str, object]


@dataclass(frozen=True)
class Operation:
    """One thing to ask for.

    Attributes:
        name: of the method of `Api` that answers, and in the description.
        body: what a JSON body is; None: there is none.
        body_required: whether the body may be left out.
        files: media types of a binary body.
        status: of success.
        answer: what is answered as JSON; None: no JSON.
        answer_types: media types of other answers.
        headers: of the answer, and what they say.
        problems: kinds that it may be refused with, beside those that every operation may.
    """

    method: str
    path: str
    name: str
    summary: str
    description: str = ""
    query: tuple[Query, ...] = ()
    body: type[BaseModel] | None = None
    body_required: bool = True
    files: tuple[str, ...] = ()
    status: int = 200
    answer: type[BaseModel] | None = None
    answer_types: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


_OF_SESSION = ("no-such-session", "busy")
FORM_OF_NUMBERS = (
    Query("dtype", "Of raw numbers alone.", {"type": "string", "enum": ["float32", "uint8"], "default": "float32"}),
    Query(
        "shape", "Of raw numbers alone: height,width or height,width,channels. Default: the model's.",
        {"type": "string", "pattern": frames.SHAPE_PATTERN},
    ),
)  # fmt: skip

OPERATIONS = (
    Operation(
        "GET", "/v1/models", "list_models", "List the models that this server may open.", answer=schema.Models,
    ),
    Operation(
        "POST", "/v1/sessions", "open_session", "Open a session.",
        description="A session is one stream of frames: it keeps what it has observed, and one request of it runs at a time. "
        "Close it when you are done; one that nobody uses is closed after its idle_timeout_s.",
        body=schema.SessionRequest, status=201, answer=schema.Session,
        headers={"Location": "Address of the session."},
        problems=("too-slow", "wrong-type", "invalid", "no-room", "model-changed", "engine-failed"),
    ),
    Operation(
        "GET", "/v1/sessions", "list_sessions", "List the open sessions.", answer=schema.Sessions,
    ),
    Operation(
        "GET", "/v1/sessions/{session_id}", "show_session", "Show a session.", answer=schema.Session,
        problems=("no-such-session",),
    ),
    Operation(
        "DELETE", "/v1/sessions/{session_id}", "close_session", "Close a session.",
        description="The answer comes when its memory is free.", status=204,
        problems=("no-such-session", "too-slow", "invalid"),
    ),
    Operation(
        "POST", "/v1/sessions/{session_id}/frames", "observe_frame", "Observe the next frame.",
        description="One frame: application/octet-stream is raw numbers, rows from the top, channels last, RGB: float32 "
        "(little-endian, in [0, 1], of the model's size), or uint8 of any size. image/png and image/jpeg are pictures of any "
        "size. Pictures and uint8 are scaled, cropped in the middle and converted to the model's colours, as svg-live does. "
        "A frame that is refused is not observed.",
        query=FORM_OF_NUMBERS, files=frames.MEDIA_TYPES, answer=schema.Observation,
        problems=(*_OF_SESSION, "too-slow", "wrong-type", "invalid", "engine-failed"),
    ),
    Operation(
        "POST", "/v1/sessions/{session_id}/forecast", "forecast", "Forecast the frames that follow the last observed one.",
        description="Without a body: as the session was opened. Numbers are little-endian, in C order, with the axes of "
        "Svg-Axes; mean_and_spread has the mean first. A PNG has a row for each sample, or for the mean and for twice the "
        "spread, and a column for each step.",
        body=schema.ForecastRequest, body_required=False, answer=schema.ForecastSummary,
        answer_types=tuple(kind for form, kind in answers.MEDIA_TYPES.items() if form != "json"),
        headers={
            "Svg-Frame-Index": "Of the last observed frame: step 1 is one frame later.",
            "Svg-Shape": "Sizes of the axes, of raw numbers and .npy.",
            "Svg-Dtype": "float32 or uint8.",
            "Svg-Axes": "Names of the axes.",
        },
        problems=(*_OF_SESSION, "not-acceptable", "too-slow", "not-ready", "wrong-type", "invalid", "engine-failed"),
    ),
    Operation(
        "POST", "/v1/sessions/{session_id}/reset", "reset_session", "Discard all frames, and restart the noise from the seed.",
        status=204, problems=(*_OF_SESSION, "too-slow", "wrong-type", "invalid", "engine-failed"),
    ),
    Operation("GET", "/healthz", "health", "Whether the server answers.", answer=schema.Health),
    Operation("GET", "/metrics", "show_metrics", "Counters and times for Prometheus.", answer_types=(metrics.MEDIA_TYPE,)),
    Operation("GET", "/openapi.json", "show_description", "This description.", answer_types=("application/json",)),
    Operation("GET", "/", "show_page", "This description as a page.", answer_types=(HTML,)),
)  # fmt: skip
