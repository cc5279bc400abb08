"""What is compared: one forecast, computed by several peers from the same weights, frames and noise, who take turns.

The forecast is that of `Forecaster.forecast`: the predictor reads the context once for every sample, then `horizon` frames are
drawn. Encoding the observed frames is no part of it, for any peer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from svg_common.digits import digit_stream
from svg_runtime.bundle import Bundle

MAX_ERROR = 1e-3  # of peers in float32, over all frames
MIN_DB = 30.0  # of peers in bf16, first frame: the loop amplifies rounding from there on
_PAUSE_S = 0.1  # before each turn: idle threads of ONNX Runtime's default sessions went on spinning for 60 ms (AMD EPYC, Zen 5)


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
        """How many futures."""
        return self.noise.shape[1]


@dataclass(frozen=True)
class Context:
    """What the observed frames leave to a forecast, for peers that keep their states themselves."""

    h: np.ndarray  # (n_past, g_dim) encodings
    z: np.ndarray  # (n_past - 1, samples, z_dim) latents of the posterior
    prior_state: np.ndarray  # (2 * layers, 1, rnn)
    skips: list[np.ndarray]  # each (1, c, s, s), finest first


@dataclass
class Peer:
    """One way to compute the forecast. `forecast` gives (horizon, samples, C, H, W); None if it cannot be had, for `reason`."""

    name: str
    precision: str  # that it computes in: fp32 or bf16
    forecast: Callable[[], np.ndarray] | None = None
    reason: str = ""
    max_error: float = float("nan")  # over all frames, against the reference's networks in float32
    first_frame_db: float = float("nan")  # PSNR against them
    seconds: list[float] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.seconds)

    def as_json(self) -> dict[str, Any]:
        """For the benchmark's extra_info."""
        about = {"name": self.name, "precision": self.precision}
        if self.forecast is None:
            return {**about, "reason": self.reason}
        return {
            **about, "max_error": self.max_error, "first_frame_db": round(self.first_frame_db, 2), "seconds": self.seconds
        }  # fmt: skip


def open_peer(name: str, precision: str, make: Callable[[], Callable[[], np.ndarray]], expected: np.ndarray | None) -> Peer:
    """Make a peer and hold its frames against `expected`; they may be nothing but as close as its precision allows.

    A peer that cannot be made (a library, a compiler, a precision is missing) or computes something else has its reason instead
    of a forecast.
    """
    peer = Peer(name, precision)
    try:
        peer.forecast = make()
        frames = peer.forecast()
    except Exception as error:  # each library has classes of its own for what it cannot do
        peer.forecast, peer.reason = None, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        return peer
    difference = (frames - (frames if expected is None else expected)).astype(np.float64)
    peer.max_error = float(np.abs(difference).max())
    peer.first_frame_db = float(-10 * np.log10(max(np.mean(difference[0] ** 2), 1e-12)))
    close = peer.max_error <= MAX_ERROR if precision == "fp32" else peer.first_frame_db >= MIN_DB
    if not close:
        peer.forecast = None
        peer.reason = f"computes something else: largest error {peer.max_error:.2g}, first frame {peer.first_frame_db:.1f} dB"
    return peer


def warm_up(peers: list[Peer], least: int, most: int, seconds: float) -> int:
    """A round that does not count, and how many of its kind fit into `seconds`, within the bounds."""
    take_turns(peers, 1)
    round_s = sum(sum(peer.seconds) for peer in peers)
    for peer in peers:
        peer.seconds.clear()
    return int(min(max(seconds / round_s, least), most))


def take_turns(peers: Iterable[Peer], rounds: int) -> None:
    """Time every peer once per round, in an order that rotates: whatever else the machine does meets all alike."""
    able = [peer for peer in peers if peer.forecast is not None]
    for round_ in range(rounds):
        first = round_ % len(able)
        for peer in able[first:] + able[:first]:
            assert peer.forecast is not None
            time.sleep(_PAUSE_S)
            start = time.perf_counter()
            peer.forecast()
            peer.seconds.append(time.perf_counter() - start)


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
        close = f"error {peer.max_error:.1g}" if peer.precision == "fp32" else f"first {peer.first_frame_db:.0f} dB"
        quartiles = f"{low * 1e3:.1f}-{high * 1e3:.1f}"
        rows.append([f"{peer.name}, {peer.precision}", f"{peer.median_s * 1e3:.1f}", quartiles, *faster, close])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
