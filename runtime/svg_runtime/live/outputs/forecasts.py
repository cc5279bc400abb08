"""Raw forecasts, a .npz file each, for evaluation afterwards; the oldest are removed at a size limit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.outputs.bounded_folder import BoundedFolder
from svg_runtime.live.overlay.view import View

_HEADER_BYTES = 4096  # of a file beside its frames, at most


class ForecastRecorder:
    """Writes the futures of each frame to a file of its own.

    A file has: `futures` (S, T, H, W, C) in [0, 1]; `lead_s` (T,), how many seconds ahead each step is; `time`, when the last
    observed picture was captured, ISO 8601 in UTC; `frame`, how many pictures were seen before it; `tick`, its model interval;
    `bundle_id` of the manifest.

    Args:
        folder: where to; what else is in there is left alone.
        limit_bytes: of all these files together.
        bundle_id: of the model.
        dtype: of the futures.
    """

    def __init__(self, folder: Path, limit_bytes: int, bundle_id: str, dtype: Literal["float16", "float32"]) -> None:
        self._files = BoundedFolder(folder, ".npz", limit_bytes)
        self._bundle_id = bundle_id
        self._dtype = np.dtype(dtype)
        self._count = 0

    def record(self, view: View, picture: NDArray[np.uint8] | None) -> bool:
        """Store the futures of one frame, and return whether there are any.

        Raises:
            OSError: the disk is full or gone; nothing of this forecast is left.
        """
        if view.futures is None:
            return False
        assert view.step_s is not None  # whoever forecasts knows it
        futures = view.futures.astype(self._dtype)
        self._files.make_room(futures.nbytes + _HEADER_BYTES)
        path = self._files.new_file(view.time)
        _publish(
            path,
            futures=futures,
            lead_s=view.step_s * np.arange(1, futures.shape[1] + 1),
            time=np.array(view.time.isoformat(timespec="milliseconds")),
            frame=np.array(view.number),
            tick=np.array(view.tick),
            bundle_id=np.array(self._bundle_id),
        )
        self._files.add(path)
        self._count += 1
        return True

    def wants(self, view: View, picture: NDArray[np.uint8] | None) -> bool:
        """Whether the frame has futures."""
        return view.futures is not None

    def close(self, keep: bool = True) -> None:
        """Nothing is in progress between two forecasts."""

    def summary(self) -> dict[str, Any]:
        """Return how many forecasts were written."""
        return {"folder": str(self._files.folder), "forecasts": self._count}


def _publish(path: Path, **arrays: NDArray[Any]) -> None:
    """Write beside `path` and rename; not flushed to the disk, as `atomic_file` does, because this happens at frame rate.

    Not compressed: forecasts hardly are, and it would take a processor core.
    """
    partial = path.with_name(f".{path.name}")
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes the names for its own option
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
