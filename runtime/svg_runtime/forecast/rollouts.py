"""The rollouts of a forecaster: buffers and bound graphs, made when first asked for, a few of them kept."""

from __future__ import annotations

from svg_runtime.backends.base import Backend
from svg_runtime.bundle.contract import FUSED
from svg_runtime.bundle.manifest import Manifest, PrecisionVariant
from svg_runtime.errors import BackendMissingError, UsageError
from svg_runtime.forecast.fused_rollout import FusedRollout
from svg_runtime.forecast.observer import Observer
from svg_runtime.forecast.separate_rollout import Rollout

_KEPT = 4  # sets of device buffers, one per samples and horizon asked for; the oldest is freed first


def use_fused(variant: PrecisionVariant, wanted: bool | None, preferred: bool) -> bool:
    """Whether to run the fused graphs: as wanted, else as preferred if the bundle has them.

    Raises:
        BackendMissingError: wanted, but not there.
    """
    there = set(FUSED) <= set(variant.graphs)
    if wanted and not there:
        raise BackendMissingError(
            "the bundle has no fused graphs\n  export it again with: svg-export ckpt.pt, or open it with fused=False"
        )
    return there and preferred if wanted is None else wanted


class Rollouts:
    """Makes rollouts of any number of samples and frames, fused or separate.

    Raises:
        UsageError: buffers of that size do not fit into memory.
    """

    def __init__(
        self, backend: Backend, manifest: Manifest, variant: PrecisionVariant, observer: Observer, fused: bool
    ) -> None:
        self._parts = backend, manifest, variant, observer
        self._fused = fused
        self._kept: dict[tuple[bool, int, int], Rollout | FusedRollout] = {}

    def get(self, samples: int, horizon: int) -> Rollout | FusedRollout:
        """The rollout for forecasts."""
        return self._get_or_create(self._fused, samples, horizon)

    def separate(self, samples: int, horizon: int) -> Rollout:
        """One on the separate graphs, whose latents can be given from outside."""
        rollout = self._get_or_create(False, samples, horizon)
        assert isinstance(rollout, Rollout)
        return rollout

    def _get_or_create(self, fused: bool, samples: int, horizon: int) -> Rollout | FusedRollout:
        key = fused, samples, horizon
        if key not in self._kept:
            while len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            try:
                self._kept[key] = (FusedRollout if fused else Rollout)(*self._parts, samples, horizon)
            except MemoryError as error:
                raise UsageError(f"{samples} samples of {horizon} frames do not fit into memory\n  expected fewer") from error
        return self._kept[key]
