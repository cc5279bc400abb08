"""Assigns the cameras of a `BatchForecaster` to the sequences of clients, and answers their frames as one batch."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import cast

import numpy as np
from numpy.typing import NDArray

from svg_runtime.errors import CamerasError, SvgError
from svg_runtime.forecast.batch import BatchForecaster
from svg_runtime.forecast.checks import checked_frame
from svg_runtime.forecast.forecaster import Observation
from svg_runtime.forecast.noise import FloatArray

_LOG = logging.getLogger(__name__)
SequenceId = int | str


class SequenceLostError(SvgError):
    """A frame continues a sequence whose context is not here any more."""


@dataclass(frozen=True)
class FrameRequest:
    """One frame of a sequence.

    Attributes:
        sequence: its correlation id.
        frame: (H, W, C) float32 in [0, 1], not checked yet.
        starts: whether the sequence begins with it.
        ends: whether the sequence ends with it.
        wants_futures: whether the client asks for futures; without, the frame is only observed.
    """

    sequence: SequenceId
    frame: NDArray[np.generic]
    starts: bool = False
    ends: bool = False
    wants_futures: bool = True


@dataclass(frozen=True)
class FrameAnswer:
    """What is answered to a frame.

    Attributes:
        missing_frames: how many more the context needs before there are futures; 0: none.
        surprise: see `Observation`; None for the first frames, and for models that have none.
        futures: (samples, horizon, H, W, C) float32; None if they are not wanted, or the context is not filled.
    """

    missing_frames: int
    surprise: float | None = None
    futures: FloatArray | None = None


@dataclass
class _Slot:
    camera: int
    last_used_s: float


class Sequences:
    """Sequences in progress. The methods may be called from several threads.

    Args:
        batch: has as many cameras as there may be sequences.
        seed: the noise of sequence n has the seed `seed + n`, see `seed_of`.
        clock: seconds that only grow.
    """

    def __init__(self, batch: BatchForecaster, seed: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._batch = batch
        self._seed = seed
        self._clock = clock
        self._lock = Lock()
        self._slots: dict[SequenceId, _Slot] = {}
        self._free = list(reversed(range(batch.cameras)))

    def __len__(self) -> int:
        return len(self._slots)

    def answer(self, requests: Sequence[FrameRequest]) -> list[FrameAnswer | SvgError]:
        """Observe the frames of several sequences as one batch, and forecast those that can be.

        Args:
            requests: at most one of each sequence.

        Returns:
            For each request its answer, or what is wrong with it. An error of one changes no other. A frame that is refused
            leaves its sequence as it was; where the engine failed, the context of the sequence begins anew.
        """
        with self._lock:
            cameras: dict[int, int] = {}  # index of the request -> camera
            answers: dict[int, FrameAnswer | SvgError] = {}
            frames: dict[int, FloatArray] = {}
            busy = {request.sequence for request in requests}
            for index, request in enumerate(requests):
                try:
                    cameras[index] = self._camera_of(request, busy)
                    frames[index] = checked_frame(request.frame, self._batch.manifest.frame)
                except SvgError as error:
                    answers[index] = error
            answers |= self._observe({cameras[index]: frame for index, frame in frames.items()}, list(frames))
            ready = [
                index
                for index, answer in answers.items()
                if isinstance(answer, FrameAnswer) and not answer.missing_frames and requests[index].wants_futures
            ]
            answers |= self._forecast({index: cameras[index] for index in ready}, answers)
            for request in requests:
                if request.ends:
                    self._release(request.sequence)
            return [answers[index] for index in range(len(requests))]

    def free_idle(self, idle_s: float) -> list[SequenceId]:
        """Free the sequences without a frame for so many seconds, and return them."""
        with self._lock:
            limit = self._clock() - idle_s
            idle = [sequence for sequence, slot in self._slots.items() if slot.last_used_s < limit]
            for sequence in idle:
                self._release(sequence)
            return idle

    def _camera_of(self, request: FrameRequest, busy: set[SequenceId]) -> int:
        """Return the camera of the request's sequence, which is reset where the sequence starts."""
        slot = self._slots.get(request.sequence)
        if slot is None and not request.starts:
            raise SequenceLostError(
                f"sequence {request.sequence!r} is not known here: it has ended, was idle for too long, or the server is new\n"
                f"  start it anew: send its last {self._batch.manifest.generation.n_past} frames, the first with "
                "sequence_start=True"
            )
        if slot is None:
            slot = self._slots[request.sequence] = _Slot(self._free_camera(busy), 0.0)
        slot.last_used_s = self._clock()
        if request.starts:
            self._batch.reset(slot.camera, seed=seed_of(request.sequence, self._seed))
        return slot.camera

    def _free_camera(self, busy: set[SequenceId]) -> int:
        """Return a camera without a sequence.

        Triton lets no more sequences in than there are cameras. If all are taken, it has dropped one for being idle, without
        saying so: the one that was not used for the longest time.
        """
        if not self._free:
            idle = min((name for name in self._slots if name not in busy), key=lambda name: self._slots[name].last_used_s)
            self._release(idle)
        return self._free.pop()

    def _release(self, sequence: SequenceId) -> None:
        slot = self._slots.pop(sequence, None)
        if slot is not None:
            self._batch.reset(slot.camera)  # frees what is kept of it
            self._free.append(slot.camera)

    def _observe(self, frames: dict[int, FloatArray], indices: Sequence[int]) -> dict[int, FrameAnswer | SvgError]:
        """Observe frames by camera; returns an answer for each index, in the order of the cameras."""
        failed: dict[int, SvgError] = {}
        try:
            seen = self._batch.observe(frames)
        except CamerasError as error:
            seen, failed = cast("dict[int, Observation]", error.results), dict(error.failed)
        except SvgError as error:
            seen, failed = {}, dict.fromkeys(frames, error)
        answers: dict[int, FrameAnswer | SvgError] = {}
        for index, camera in zip(indices, frames, strict=True):
            if camera in failed:
                answers[index] = self._begin_anew(camera, failed[camera])
            else:
                missing = max(0, self._batch.manifest.generation.n_past - (seen[camera].index + 1))
                answers[index] = FrameAnswer(missing, seen[camera].surprise)
        return answers

    def _forecast(
        self, cameras: dict[int, int], answers: dict[int, FrameAnswer | SvgError]
    ) -> dict[int, FrameAnswer | SvgError]:
        """Add futures to the answers of some indices."""
        failed: dict[int, SvgError] = {}
        try:
            futures = self._batch.forecast(cameras.values()) if cameras else {}
        except CamerasError as error:
            futures, failed = cast("dict[int, FloatArray]", error.results), dict(error.failed)
        except SvgError as error:
            futures, failed = {}, dict.fromkeys(cameras.values(), error)
        added: dict[int, FrameAnswer | SvgError] = {}
        for index, camera in cameras.items():
            answer = answers[index]
            assert isinstance(answer, FrameAnswer)
            if camera in failed:
                added[index] = self._begin_anew(camera, failed[camera])
            else:
                added[index] = FrameAnswer(answer.missing_frames, answer.surprise, futures[camera])
        return added

    def _begin_anew(self, camera: int, error: SvgError) -> SvgError:
        self._batch.reset(camera)
        _LOG.warning("a sequence begins anew: %s", error)
        return SvgError(f"{error}\n  the context of this sequence begins anew with its next frame")


def seed_of(sequence: SequenceId, base: int) -> int:
    """The seed of a sequence's noise: `base` + its number; of a name, the number is the first 8 bytes of its SHA-256."""
    if isinstance(sequence, str):
        return base + int.from_bytes(hashlib.sha256(sequence.encode()).digest()[:8], "big")
    return base + sequence
