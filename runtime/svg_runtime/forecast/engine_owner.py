"""What `Forecaster` and `BatchForecaster` have in common: both are open until `close`, in the process that opened them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, NoReturn, ParamSpec, TypeVar

from svg_common.fork import fork_problem, keep_in_children
from svg_runtime.errors import BackendError, UsageError

_OwnerT = TypeVar("_OwnerT", bound="EngineOwner")
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class EngineOwner:
    """An object with engines. Only the process that opened it can use it, until it is closed."""

    def __init__(self) -> None:
        self._closed = False
        self._process = os.getpid()
        keep_in_children(self)

    def __reduce__(self) -> NoReturn:
        """Refuse `pickle` and `copy`: another process has no such engines, and a copy would close those of the first."""
        name = type(self).__name__
        raise UsageError(
            f"a {name} cannot be copied or sent to another process\n  open another one where it is used: {name}.open(...)"
        )

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"the forecaster is closed\n  open another one with {type(self).__name__}.open(...)")
        problem = fork_problem(self._process, "the forecaster")
        if problem is not None:
            raise UsageError(problem)


def name_errors(
    method: Callable[Concatenate[_OwnerT, _Arguments], _Result],
) -> Callable[Concatenate[_OwnerT, _Arguments], _Result]:
    """Let `method` raise a BackendError when memory runs out, or when another thread closes the forecaster meanwhile."""

    @wraps(method)
    def named(self: _OwnerT, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        was_open = not self._closed
        try:
            return method(self, *args, **kwargs)
        except MemoryError as error:
            raise BackendError(f"out of memory: {error}\n  close other programs, or lower samples and horizon") from error
        except Exception as error:
            if isinstance(error, BackendError) or not (was_open and self._closed):
                raise
            raise BackendError(
                "the forecaster was closed during a call\n  expected close() after the last call has returned"
            ) from error

    return named
