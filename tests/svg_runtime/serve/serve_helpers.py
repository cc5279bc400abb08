"""What the tests of the server ask for, again and again."""

from __future__ import annotations

import cv2
import numpy as np

from svg_common.digits import digit_stream

RAW = {"content-type": "application/octet-stream"}


def open_session(client, model: str = "digits", **options) -> str:
    """Open a session, and return its address."""
    answer = client.post("/v1/sessions", json={"model": model, **options})
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def digits(count: int, seed: int = 3) -> list[np.ndarray]:
    draw = digit_stream(seed)
    return [draw()[..., None] for _ in range(count)]


def send(client, session: str, frame: np.ndarray) -> dict:
    answer = client.post(f"{session}/frames", content=frame.astype("<f4").tobytes(), headers=RAW)
    assert answer.status_code == 200, answer.text
    return answer.json()


def array_of(answer) -> np.ndarray:
    """The numbers of a raw answer."""
    assert answer.status_code == 200, answer.text
    shape = [int(size) for size in answer.headers["svg-shape"].split(",")]
    return np.frombuffer(answer.content, {"float32": "<f4", "uint8": "u1"}[answer.headers["svg-dtype"]]).reshape(shape)


def encoded(image: np.ndarray, kind: str) -> bytes:
    """An RGB or gray picture as .png or .jpg."""
    return cv2.imencode(kind, image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
