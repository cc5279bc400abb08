"""Notes on the data, logged once although train and test data are opened from the same files."""

from __future__ import annotations

import logging
from functools import lru_cache

_LOG = logging.getLogger(__name__)


@lru_cache(maxsize=256)
def log_once(level: int, message: str) -> None:
    """Log `message` once per process.

    Args:
        level: as in the module `logging`.
        message: the text.
    """
    _LOG.log(level, "%s", message)
