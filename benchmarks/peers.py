"""The comparison: one forecast, computed by several peers from the same weights, frames and noise, interleaved.

The forecast is that of `Forecaster.forecast`: the predictor reads the context once for every sample, then `horizon` frames are
drawn. Encoding the observed frames is not part of it, for any peer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from device_clock import DeviceClock
from goal_metrics import aligned

from svg_common.digits import digit_stream
from svg_common.errors import first_line
from svg_common.metrics import psnr
from svg_runtime.bundle.reader import Bundle

MAX_ERROR = 1e-3  # of peers in float32, over all frames
MIN_DB = 30.0  # of peers in fp16 and bf16, first frame: the loop amplifies rounding from there on
_PAUSE_S = (
    0.1  # before each forecast: idle threads of ONNX Runtime's default sessions kept spinning for 60 ms (AMD EPYC, Zen 5)
)


@dataclass(frozen=True)
class Task:
    """Frames (n_past, H, W, C) float32 in [0, 1], and the noise of every sample."""

    frames: np.ndarray
    context_noise: np.ndarray  # (n_past - 1, samples, z_dim)
    noise: np.ndarray  # (horizon, samples, z_dim)

    @classmethod
    def make(cls, bundle: Bundle, samples: int, horizon: int) -> Task:
        """A moving digit, and seeded noise."""
        frame, n_past, z_dim = bundle.manifest.frame, bundle.manifest.generation.n_past, bundle.manifest.model.z_dim
        rng, step = np.random.default_rng(0), digit_stream(0, 1, frame.height)
        gray = np.stack([step() for _ in range(n_past)])[..., None]
        shapes = (n_past - 1, samples, z_dim), (horizon, samples, z_dim)
        context_noise, noise = (rng.standard_normal(shape, np.float32) for shape in shapes)
        return cls(np.repeat(gray, frame.channels, axis=-1).astype(np.float32), context_noise, noise)

    @property
    def samples(self) -> int:
        """Futures per forecast."""
        return self.noise.shape[1]


@dataclass(frozen=True)
class Context:
    """The state of a forecast after the observed frames, for peers that manage their states themselves."""

    h: np.ndarray  # (n_past, g_dim) encodings
    z: np.ndarray  # (n_past - 1, samples, z_dim) latents of the posterior
    prior_state: np.ndarray  # (2 * layers, 1, rnn)
    skips: list[np.ndarray]  # each (1, c, s, s), finest first


@dataclass
class Peer:
    """One way to compute the forecast. `forecast` gives (horizon, samples, C, H, W); None, with a `reason`, if unavailable.

    With a `clock` (on a GPU) a round has three times: until the host has submitted the work, of the device, and `seconds`,
    until the frames are in host memory.
    """

    name: str
    precision: str  # that it computes in: fp32, fp16 or bf16
    forecast: Callable[[], np.ndarray] | None = None
    reason: str = ""
    max_error: float = float("nan")  # over all frames, against the reference's networks in float32
    first_frame_db: float = float("nan")  # PSNR against them
    seconds: list[float] = field(default_factory=list)
    clock: DeviceClock | None = None
    host_seconds: list[float] = field(default_factory=list)
    device_seconds: list[float] = field(default_factory=list)
    trace: dict[str, Any] = field(default_factory=dict)  # of one forecast: see gpu_trace.TraceSummary
    roofline: dict[str, Any] = field(default_factory=dict)  # see roofline.Roofline

    @property
    def median_s(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.seconds)

    @property
    def device_median_s(self) -> float:
        """Median time of the device; if unknown, of the whole forecast."""
        return statistics.median(self.device_seconds or self.seconds)

    @property
    def closeness(self) -> str:
        """How close its frames are to the expected ones, for tables."""
        return f"error {self.max_error:.1g}" if self.precision == "fp32" else f"first {self.first_frame_db:.0f} dB"

    def run_round(self) -> None:
        """Forecast once, and record its times."""
        assert self.forecast is not None
        start = time.perf_counter()
        if self.clock is not None:
            self.clock.begin()
        self.forecast()
        total_s = time.perf_counter() - start
        self.seconds.append(total_s)
        if self.clock is not None:
            host_s, device_s = self.clock.end(total_s)
            self.host_seconds.append(host_s)
            self.device_seconds += [] if device_s is None else [device_s]

    def clear_rounds(self) -> None:
        """Drop all times."""
        for times in (self.seconds, self.host_seconds, self.device_seconds):
            times.clear()

    def as_json(self) -> dict[str, Any]:
        """For the benchmark's extra_info."""
        about = {"name": self.name, "precision": self.precision}
        if self.forecast is None:
            return {**about, "reason": self.reason}
        about |= {"max_error": self.max_error, "first_frame_db": round(self.first_frame_db, 2), "seconds": self.seconds}
        gpu = {name: getattr(self, name) for name in ("host_seconds", "device_seconds", "trace", "roofline")}
        return {**about, **(gpu if self.clock is not None else {})}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Peer:
        """A peer from `as_json`, without the forecast itself."""
        return cls(**row)


def open_peer(
    name: str,
    precision: str,
    make: Callable[[], Callable[[], np.ndarray]],
    expected: np.ndarray | None,
    clock: DeviceClock | None = None,
) -> Peer:
    """Make a peer and compare its frames with `expected`: they must be as close as its precision allows.

    A peer that cannot be made (a library, a compiler or a precision is missing) or that computes something else has a reason
    instead of a forecast.
    """
    peer = Peer(name, precision, clock=clock)
    try:
        peer.forecast = make()
        frames = peer.forecast()
    except Exception as error:  # each library has its own exceptions
        peer.forecast = None
        peer.reason = f"{type(error).__name__}: {first_line(error)}"
        return peer
    difference = (frames - (frames if expected is None else expected)).astype(np.float64)
    peer.max_error = float(np.abs(difference).max())
    peer.first_frame_db = psnr(float(np.mean(difference[0] ** 2)))
    close = peer.max_error <= MAX_ERROR if precision == "fp32" else peer.first_frame_db >= MIN_DB
    if not close:
        peer.forecast = None
        peer.reason = f"computes something else: largest error {peer.max_error:.2g}, first frame {peer.first_frame_db:.1f} dB"
    return peer


def warm_up(
    peers: list[Peer], min_rounds: int, max_rounds: int, seconds: float, rounds: int = 1, pause_s: float = _PAUSE_S
) -> int:
    """Run rounds that do not count; returns how many such rounds fit into `seconds`, within the bounds."""
    time_interleaved(peers, rounds, pause_s)
    round_s = sum(peer.seconds[-1] for peer in peers if peer.seconds)
    for peer in peers:
        peer.clear_rounds()
    return int(min(max(seconds / round_s, min_rounds), max_rounds))


def time_interleaved(peers: Iterable[Peer], rounds: int, pause_s: float = _PAUSE_S) -> None:
    """Time every peer once per round, in a rotating order, so that the machine's load is the same for all."""
    available = [peer for peer in peers if peer.forecast is not None]
    for round_ in range(rounds):
        first = round_ % len(available)
        for peer in available[first:] + available[:first]:
            time.sleep(pause_s)
            peer.run_round()


def ratio(slower: Peer, faster: Peer) -> float:
    """How many times as fast: the median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(slower.seconds, faster.seconds, strict=True))


def peers_table(peers: list[Peer], yardsticks: list[Peer]) -> list[str]:
    """Lines: peer, median and quartiles in ms, how many times as fast as each yardstick, and how close its frames are."""
    rows = [["peer", "ms, median", "quartiles", *(f"x {yardstick.name}" for yardstick in yardsticks), "frames"]]
    for peer in peers:
        if not peer.seconds:
            rows.append([f"{peer.name}, {peer.precision}", "-", "-", *("-" for _ in yardsticks), peer.reason])
            continue
        low, _, high = statistics.quantiles(peer.seconds, n=4) if len(peer.seconds) > 1 else peer.seconds * 3
        faster = [f"{ratio(yardstick, peer):.2f}" if yardstick.seconds else "-" for yardstick in yardsticks]
        quartiles = f"{low * 1e3:.1f}-{high * 1e3:.1f}"
        rows.append([f"{peer.name}, {peer.precision}", f"{peer.median_s * 1e3:.1f}", quartiles, *faster, peer.closeness])
    return aligned(rows)
