"""The roofline of a forecast: how fast it could be if only arithmetic and memory took time.

S. Williams, A. Waterman and D. Patterson, "Roofline", CACM 2009. The ceilings are measured on the device.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Roofline:
    """Work of one forecast against the ceilings of a device.

    Args:
        operations: in convolutions and matrix products, a multiply-add being two.
        moved_bytes: of weights, inputs and outputs of all graph runs. Caches may save some of them.
        peak_operations_per_s: of the fastest matrix product in the same precision.
        peak_bytes_per_s: of a copy on the device, read and written.
    """

    operations: int
    moved_bytes: int
    peak_operations_per_s: float
    peak_bytes_per_s: float

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.operations / self.moved_bytes

    @property
    def bound(self) -> str:
        """Which ceiling is the lower one for this work: compute or memory."""
        return "compute" if self.intensity >= self.peak_operations_per_s / self.peak_bytes_per_s else "memory"

    @property
    def bound_s(self) -> float:
        """Seconds at the lower ceiling."""
        return max(self.operations / self.peak_operations_per_s, self.moved_bytes / self.peak_bytes_per_s)

    def share(self, seconds: float) -> float:
        """The share of the lower ceiling that a forecast of this duration reaches."""
        return self.bound_s / seconds

    def as_json(self) -> dict[str, Any]:
        """For the benchmark's extra_info."""
        return {**asdict(self), "intensity": self.intensity, "bound": self.bound, "bound_s": self.bound_s}
