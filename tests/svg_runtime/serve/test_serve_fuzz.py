"""The HTTP API asked at random, from its own OpenAPI description.

A few examples of each operation by default, the same ones every time; `nox -s fuzz` runs more, other ones every time.
"""

from __future__ import annotations

import gc
import itertools
import os
import threading

import numpy as np
import pytest

from svg_runtime import Forecaster
from svg_runtime.serve.answers import Answer
from svg_runtime.serve.operations import OPERATIONS, SESSION_ID
from svg_runtime.serve.schema import SessionRequest
from svg_runtime.serve.session import Session
from tests.svg_runtime.serve.serve_helpers import encoded

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis needs Python 3.11")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.config import SchemathesisConfig  # noqa: E402
from schemathesis.python.asgi import _get_portal  # noqa: E402

EXAMPLES = int(os.environ.get("SVG_EDGE_FUZZ_EXAMPLES", "0"))
SESSIONS = 3
COUNTS = 16  # of samples and horizon, mostly: beyond, nearly all products are too large

# What the description cannot say of valid values: too many samples, numbers whose product is too large, bytes that are no
# picture, an Accept that names none of the forms.
CHECKS = {
    "positive_data_acceptance": {
        "expected-statuses": ["2xx", "401", "403", "404", "406", "409", "413", "415", "422", "429", "503"]
    },
    "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503"]},
}
FRAME = np.linspace(0, 1, 64 * 64, dtype=np.float32)
PICTURE = np.random.default_rng(1).integers(0, 255, (20, 30, 3), np.uint8)


def mutated(content: bytes) -> st.SearchStrategy[bytes]:
    """The same bytes, or a few of them replaced."""

    def replace(at: int, part: bytes) -> bytes:
        return content[:at] + part + content[at + len(part) :]

    return st.one_of(st.just(content), st.builds(replace, st.integers(0, len(content)), st.binary(max_size=8)))


BODIES = {
    "application/octet-stream": st.one_of(mutated(FRAME.tobytes()), mutated((FRAME * 255).astype(np.uint8).tobytes())),
    "image/png": mutated(encoded(PICTURE, ".png")),
    "image/jpeg": mutated(encoded(PICTURE, ".jpg")),
}
for media_type, strategy in BODIES.items():
    schemathesis.openapi.media_type(media_type, strategy)


class Fuzzer:
    """Asks a server for everything, with valid and with invalid values."""

    def __init__(self, server) -> None:
        self.server = server
        self.statuses: dict[str, set[int]] = {}
        self.portal = _get_portal()  # of the event loop in which schemathesis asks
        config = SchemathesisConfig.from_dict({"checks": CHECKS})
        self._api = schemathesis.openapi.from_asgi("/openapi.json", server.app, config=config)
        self._opened = itertools.count()
        self._asked = itertools.count()

    def ask_all(self) -> None:
        for operation in OPERATIONS:
            takes_values = operation.body or operation.query or operation.files
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE) if takes_values else (GenerationMode.POSITIVE,):
                self._ask(operation.name, mode)
        self.portal.call(self.server.sessions.close_all)
        for thread in threading.enumerate():
            if thread.name.startswith("session "):
                thread.join(10)  # the server does not wait for it
        gc.collect()

    def _ask(self, name: str, mode: GenerationMode) -> None:
        @given(case=self._api.find_operation_by_id(name).as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES or 6, deadline=None, derandomize=not EXAMPLES, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def ask_once(case) -> None:
            asked = next(self._asked)
            if SESSION_ID in (case.path_parameters or {}) and asked % 4:
                case.path_parameters[SESSION_ID] = self._session()
            if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and asked % 4:
                for count in ("samples", "horizon"):
                    if case.body.get(count):
                        case.body[count] = 1 + case.body[count] % COUNTS
            response = case.call()
            case.validate_response(response)
            self.statuses.setdefault(name, set()).add(response.status_code)
            assert len(self.server.sessions) <= SESSIONS

        ask_once()

    def _session(self) -> str:
        """Id of an open session; every other one is ready to forecast."""
        sessions = self.server.sessions
        if not len(sessions):
            name = self.portal.call(sessions.open, SessionRequest(model="digits", samples=2, horizon=3)).name
            for _ in range(5 if next(self._opened) % 2 else 0):
                self.portal.call(sessions.get(name).observe, FRAME.tobytes(), "application/octet-stream", "float32", None)
        return sessions.about.sessions[0].id


def alive() -> tuple[int, ...]:
    """Threads, and objects that hold an engine, a session or the numbers of a forecast."""
    kinds = [type(each) for each in gc.get_objects()]
    return threading.active_count(), *(kinds.count(kind) for kind in (Forecaster, Session, Answer))


@pytest.mark.slow
def test_random_requests_are_answered_as_described_and_nothing_grows(make_server):
    fuzzer = Fuzzer(make_server(sessions=SESSIONS, forecast_bytes=4_000_000))
    fuzzer.ask_all()
    before = alive()
    fuzzer.ask_all()
    assert alive() == before
    assert fuzzer.statuses["open_session"] >= {201, 422}  # both kinds of answers were reached
    assert fuzzer.statuses["observe_frame"] >= {200, 404, 422}
    assert fuzzer.statuses["forecast"] >= {200, 404, 422}
    assert fuzzer.statuses["close_session"] == {204, 404}
