"""float16 gradients: the loss is scaled, so that small ones do not vanish, and steps whose gradient overflows are skipped."""

from __future__ import annotations

import math
import warnings

from lightning_fabric import Fabric

# In a row. PyTorch begins with a scale of 2^16 and halves it each time: below 2^-8 it is not the scale that is wrong.
_MOST_SKIPPED = 24


class LossScaling:
    """The scale of the loss that a precision of float16 needs; nothing in the others.

    Fabric scales and unscales; its optimizer leaves the weights as they are where the gradient is not finite.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._precision = fabric.strategy.precision
        self._skipped = 0
        if self.in_use:  # the first steps are often skipped, which schedules of the learning rate take for a mistake
            warnings.filterwarnings("ignore", "Detected call of .lr_scheduler.step", UserWarning)

    @property
    def in_use(self) -> bool:
        """Whether losses are scaled, which PyTorch's fused optimizers do not leave to others."""
        return bool(self.state_dict())

    def note_gradient(self, norm: float) -> bool:
        """Note the norm of a step's gradient. Returns whether the model has diverged, rather than the scale being too large."""
        self._skipped = 0 if math.isfinite(norm) else self._skipped + 1
        return self._skipped > (_MOST_SKIPPED if self.in_use else 0)

    def state_dict(self) -> dict[str, object]:
        """What a resumed run continues with."""
        return dict(self._precision.state_dict())

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue with the scale of a saved run, if both have one."""
        if state and self.in_use:
            self._precision.load_state_dict(state)
