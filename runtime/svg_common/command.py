"""One style for all commands: errors become one message and a documented exit code, progress goes to stderr."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import NoReturn

import typer
from rich.console import Console

from svg_common.errors import FULL_DISK, ExitCode, MissingExtraError, SvgError, UsageError, first_line
from svg_common.journal import prefix_journal_lines, stderr_is_journal
from svg_common.log_messages import ConsoleHandler, log_messages_to
from svg_common.out_of_memory import is_out_of_memory
from svg_common.printable import console_text, print_any_name
from svg_common.signals import handle_stop_signals_as_sigint, was_interrupted
from svg_common.streams import drop_unwritable_messages, flush_results, open_closed_streams

_MIN_COLUMNS = 20
_LIBRARIES = {"cv2": "opencv-python", "av": "av"}  # that every installation has: module -> package
_WITHOUT_VALUE = re.compile(r"--[a-z0-9-]+=")


@cache
def stderr_console() -> Console:
    """The console for progress and messages, shared so that messages appear above a progress bar. stdout is for results."""
    # What $FORCE_COLOR asks for is not for the journal.
    forced = False if stderr_is_journal() else None
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False, force_terminal=forced)  # a path may hold :on:


def require_modules(what: str, extra: str, *modules: str) -> None:
    """Raise a MissingExtraError, which names the extra to install, if one of `modules` cannot be imported."""
    for module in modules:
        if not is_installed(module):
            raise MissingExtraError(what, module, extra)


def is_installed(module: str) -> bool:
    """Whether `module` can be found. It may still fail to load."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # the parent of a dotted name is missing; the import is blocked
        return False


def run_command(app: typer.Typer, prefix: str = "") -> NoReturn:
    """Run a command line application and exit with its documented code; only a bug shows a traceback.

    Args:
        app: the command.
        prefix: before log messages of level INFO, which go to stderr.
    """
    handle_stop_signals_as_sigint()
    open_closed_streams()
    drop_unwritable_messages()
    print_any_name()
    prefix_journal_lines()
    _ignore_narrow_terminal()
    warnings.formatwarning = lambda message, *where: f"warning: {console_text(str(message))}\n"  # no source line
    code = _exit_code(lambda: _run(app, prefix))
    flushed = _exit_code(flush_results)
    sys.exit(code or flushed)


def _run(app: typer.Typer, prefix: str) -> int:
    with log_messages_to(ConsoleHandler(stderr_console(), prefix)):
        _refuse_deleted_folder()
        _refuse_empty_arguments(sys.argv[1:])
        try:
            code = app(standalone_mode=False)
        except Exception as error:
            _add_expected_values(app, error)
            raise
    if code == ExitCode.INTERRUPTED and was_interrupted():
        raise KeyboardInterrupt  # of which typer makes that code
    return code if isinstance(code, int) else ExitCode.OK


def _add_expected_values(app: typer.Typer, error: Exception) -> None:
    """Let click's usage error show how an option is written that takes several values."""
    named = {getattr(error, "option_name", None), *getattr(getattr(error, "param", None), "opts", ())} - {None}
    if not named:
        return
    for option in typer.main.get_command(app).params:
        if option.nargs > 1 and named & set(option.opts):
            error.message += f"\n  expected {option.opts[0]} {option.metavar}, with a space between"  # type: ignore[attr-defined]


def _exit_code(run: Callable[[], int | None]) -> int:
    """What `run` returns, or the code of its error, after its message; 0 for None."""
    try:
        return run() or ExitCode.OK
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", ExitCode.INTERRUPTED)
    except BrokenPipeError:  # the reader of stdout has closed it: nobody reads a message
        return ExitCode.ERROR
    except Exception as error:
        if was_interrupted():  # libraries make other errors of a KeyboardInterrupt
            return _fail("interrupted", ExitCode.INTERRUPTED)
        code = _report(error)
        if code is None:
            raise
        return code


def _report(error: Exception) -> int | None:
    """Print the message of an error, and return its code; None of a bug."""
    if isinstance(error, SvgError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, ImportError) and (broken := next(filter(_is_broken, _LIBRARIES), None)) is not None:
        return _fail(_describe_import_error(broken, error), ExitCode.BACKEND_MISSING)
    if isinstance(error, OSError):
        return _fail(_describe_os_error(error), ExitCode.ERROR)
    if is_out_of_memory(error):
        return _fail(_describe_memory_error(error), ExitCode.ERROR)
    show = getattr(error, "show", None)  # click's usage errors print themselves, with the command's usage line
    if show is None:
        return None
    shown = io.StringIO()
    show(file=shown)
    print(console_text(shown.getvalue()), end="", file=sys.stderr)
    return int(getattr(error, "exit_code", ExitCode.USAGE))


def _ignore_narrow_terminal() -> None:
    """Some programs set COLUMNS to 0, at which rich prints nothing at all."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) < _MIN_COLUMNS:
        del os.environ["COLUMNS"]


def _refuse_deleted_folder() -> None:
    """No relative path leads anywhere from there, and libraries fail in ways that nobody understands."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise SvgError("the current folder was deleted\n  go to one that exists, with cd") from error


def _refuse_empty_arguments(arguments: Sequence[str]) -> None:
    """Nobody gives one on purpose, and as a path it is the current folder.

    Raises:
        UsageError: --name '', --name= or an empty argument.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument == "":
            given = f"{before} ''" if before.startswith("-") else "''"
        elif _WITHOUT_VALUE.fullmatch(argument):
            given = argument
        else:
            continue
        raise UsageError(
            f"an argument is empty: {given}\n"
            "  expected a value, such as . for the current folder; is it a shell variable that is not set?"
        )


def _is_broken(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return True
    return False


def _describe_import_error(module: str, error: ImportError) -> str:
    return (
        f"cannot import {module}: {first_line(error)}\n"
        f"  look closer with svg-doctor, or install it anew: pip install --force-reinstall {_LIBRARIES[module]}"
    )


def _describe_os_error(error: OSError) -> str:
    place = f": {os.fsdecode(error.filename)}" if error.filename else ""
    advice = ""
    if error.errno == errno.EMFILE:
        advice = "\n  this shell allows too few; raise the limit with: ulimit -n 1024"
    elif error.errno in FULL_DISK:
        advice = "\n  free some space, or choose another path"
    return f"{error.strerror or error}{place}{advice}"


def _describe_memory_error(error: Exception) -> str:
    reason = f": {first_line(error)}" if str(error) else ""
    return f"out of memory{reason}\n  close other programs, or choose smaller numbers of samples, frames or sequences at once"


def _fail(message: str, code: int) -> int:
    print(f"error: {console_text(message)}", file=sys.stderr)
    return int(code)
