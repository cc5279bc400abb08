"""Which cases of a parametrized test run by default: a sample of them. The others run with `-m slow`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[Any], sample: Collection[Any]) -> list[Any]:
    """All `cases`, of which those that are not in `sample` are marked slow; a tuple is several arguments."""
    return [_case(case) if case in sample else _case(case, marks=pytest.mark.slow) for case in cases]


def _case(case: Any, **options: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), **options)
