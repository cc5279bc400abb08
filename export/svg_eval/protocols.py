"""The protocols that papers report on, with their published values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from svg_common.errors import UsageError

ProtocolName = Literal["smmnist", "kth", "kth40", "bair"]


@dataclass(frozen=True)
class Published:
    """Best of 100 samples as a paper reports it; SSIM with a data range of 1."""

    method: str
    psnr: float  # dB
    ssim: float


@dataclass(frozen=True)
class Protocol:
    """Observed and forecast frames on one data set. `data` is the [data] table of the configuration."""

    title: str
    data: dict[str, Any]
    n_past: int
    horizon: int
    published: tuple[Published, ...]


# From Franceschi et al. 2020 (SRVP) and Akan et al. 2021 (SLAMP), who evaluate all methods in the same way.
PROTOCOLS: dict[ProtocolName, Protocol] = {
    "smmnist": Protocol(
        title="Stochastic Moving MNIST, 5 -> 20",
        data={"name": "smmnist", "num_digits": 2},
        n_past=5,
        horizon=20,
        published=(Published("SVG", 14.50, 0.7090), Published("SRVP", 16.93, 0.7799), Published("SLAMP", 18.07, 0.7736)),
    ),
    "kth": Protocol(
        title="KTH, 10 -> 30",
        data={"name": "kth"},
        n_past=10,
        horizon=30,
        published=(Published("SVG-FP", 28.06, 0.8438), Published("SRVP", 29.69, 0.8697)),
    ),
    "kth40": Protocol(title="KTH, 10 -> 40", data={"name": "kth"}, n_past=10, horizon=40, published=()),
    "bair": Protocol(
        title="BAIR, 2 -> 28",
        data={"name": "bair"},
        n_past=2,
        horizon=28,
        published=(Published("SVG", 18.95, 0.8058), Published("SRVP", 19.59, 0.8196)),
    ),
}


def check_protocol(name: ProtocolName, n_past: int) -> Protocol:
    """The protocol called `name`, for a model that observes `n_past` frames.

    Raises:
        UsageError: the protocol has another number of context frames.
    """
    protocol = PROTOCOLS[name]
    if protocol.n_past != n_past:
        raise UsageError(
            f"protocol '{name}' ({protocol.title}) has {protocol.n_past} context frames, but this model observes {n_past}\n"
            f"  train one with --n-past {protocol.n_past}, or remove --protocol and use --data and --horizon"
        )
    return protocol
