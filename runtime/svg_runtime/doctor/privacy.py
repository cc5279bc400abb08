"""What a bug report should not tell: who the user is, and what the machine is called."""

from __future__ import annotations

import getpass
import platform
import re
from pathlib import Path

from svg_common.printable import console_text


def private_names() -> tuple[str, str, str]:
    """Home folder, user and host; "" for what this system does not tell."""
    try:
        home = str(Path.home())
    except RuntimeError:
        home = ""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have no name
        user = ""
    return home, user, platform.node()


def anonymous(text: str, names: tuple[str, str, str]) -> str:
    """`text` with ~ for the home folder, without user, host and logins of addresses."""
    home, user, host = names
    text = console_text(text)
    if len(home) > 1:  # not / of a container
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    if user and user != "root":
        text = re.sub(rf"(?<=[/\\]){re.escape(user)}(?![\w.-])", "USER", text)
    if host and host != "localhost":
        text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", "HOST", text)
    return text
