"""Checks of the arguments that users of Python give: what only looks right, such as the text "no" for False."""

from __future__ import annotations

import numpy as np

from svg_common.errors import UsageError


def check_count(name: str, value: object, most: int | None = None) -> None:
    """Refuse what counts nothing; True is a whole number to Python.

    Raises:
        UsageError: a value is not a whole number from 1 to `most`, which None leaves open.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1 or (most is not None and value > most):
        expected = "of at least 1" if most is None else f"from 1 to {most}"
        raise UsageError(f"{name} is {value!r}\n  expected a whole number {expected}")


def check_flag(name: str, value: object, or_none: bool = False) -> None:
    """Refuse what only looks like yes or no: to Python, the text "no" is true.

    Raises:
        UsageError: a value is not True or False, nor None where that is allowed.
    """
    if not (isinstance(value, (bool, np.bool_)) or (or_none and value is None)):
        raise UsageError(f"{name} is {value!r}\n  expected {'True, False or None' if or_none else 'True or False'}")
