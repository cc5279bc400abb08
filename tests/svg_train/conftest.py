"""Fixtures of the trainer's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import svg_train.train
from svg_train.data.notes import log_once


@pytest.fixture(scope="module", autouse=True)
def few_batches_for_statistics() -> Iterator[None]:
    """Of BatchNorm: how many there are makes no difference to any test, and it is half of the time of a short run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svg_train.train, "BN_BATCHES", 2)
        yield


@pytest.fixture(autouse=True)
def forget_notes() -> None:
    """What was noted in another test may be noted again."""
    log_once.cache_clear()
