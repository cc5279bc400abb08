"""How long a run is, in steps or in time, and the learning rate that follows from how much of it is done."""

from __future__ import annotations

import time
from collections.abc import Callable

from svg_train.config import TrainConfig

SAVE_EVERY_S = 300.0  # in a run whose length is a time: its steps may take any
_SAVE_SHARE = 0.1  # at most, of the time since the last save: on a slow machine averaged weights take minutes
_STEPS_OF_ANY_TIME = 1 << 40  # more than any duration has


class RunLength:
    """The length of a run: `train.steps`, or `train.duration_s` of training, evaluating and saving, whatever the speed.

    Args:
        train: the settings.
        elapsed_s: seconds that an interrupted run had trained before its last save.
        now: the clock, in seconds.
    """

    def __init__(self, train: TrainConfig, elapsed_s: float = 0.0, now: Callable[[], float] = time.monotonic) -> None:
        self._train = train
        self._before_s = elapsed_s
        self._saved_s = elapsed_s
        self._save_took_s = 0.0
        self._now = now
        self._began: float | None = None
        self._agreed_s: float | None = None

    def start(self) -> None:
        """Start the clock: reading and decoding of data before do not count."""
        self._began = self._now()

    @property
    def timed(self) -> bool:
        """Whether it is a time."""
        return self._train.duration_s is not None

    def measured_s(self) -> float:
        """Seconds of training so far by the clock of this process, those before an interruption included."""
        return self._before_s + (0.0 if self._began is None else self._now() - self._began)

    def agree(self, elapsed_s: float) -> None:
        """Let `elapsed_s` be the seconds so far until the next call.

        Processes whose clocks differ must not differ in rate, and a run must not end between two looks at the clock.
        """
        self._agreed_s = elapsed_s

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far: as agreed, else by the clock."""
        return self.measured_s() if self._agreed_s is None else self._agreed_s

    @property
    def has_to_be_saved(self) -> bool:
        """Whether a timed run was last saved so long ago that a loss of power would cost more than the next save."""
        return self.timed and self.elapsed_s - self._saved_s >= max(SAVE_EVERY_S, self._save_took_s / _SAVE_SHARE)

    def note_save(self, began_s: float, ended_s: float) -> None:
        """The run was saved.

        Args:
            began_s: seconds of training before it, as agreed.
            ended_s: after it.
        """
        self._saved_s = ended_s
        # One beside an evaluation takes less: that has made the averaged weights ready already.
        self._save_took_s = max(self._save_took_s, ended_s - began_s)

    def share(self, step: int) -> float:
        """How much of the run is done after `step` steps; more than 1 if its last step took longer than what was left."""
        return step / self._train.steps if self._train.duration_s is None else self.elapsed_s / self._train.duration_s

    def is_over(self, step: int) -> bool:
        """Whether nothing is left after `step` steps."""
        return self.share(step) >= 1

    def steps_from(self, step: int) -> range:
        """The steps that may be left; of a time, without end."""
        return range(step, _STEPS_OF_ANY_TIME if self.timed else self._train.steps)

    def learning_rate(self, step: int) -> float:
        """Learning rate relative to its peak: linear warm-up by steps, then linear decay to zero at the end of the run."""
        train = self._train
        warm = (step + 1) / (train.warmup_steps + 1)
        if self.timed:
            return min(warm, max(1.0 - self.share(step), 0.0))
        after_warm_up = train.steps - train.warmup_steps
        falling = after_warm_up if after_warm_up > 0 else train.steps  # of a shorter run, all steps: as of a time
        return min(warm, max(train.steps - step, 0) / falling)
