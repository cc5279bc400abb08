"""Fixtures of the trainer's tests."""

from __future__ import annotations

import pytest

from svg_train.data.notes import log_once


@pytest.fixture(autouse=True)
def forget_notes() -> None:
    """What was noted in another test may be noted again."""
    log_once.cache_clear()
