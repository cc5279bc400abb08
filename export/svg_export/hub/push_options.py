"""The options of `svg-export` for the Hugging Face Hub. Heavy imports wait until they are used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from svg_common.errors import UsageError
from svg_common.path_advice import shell_argument
from svg_common.signals import defer_interrupts

if TYPE_CHECKING:
    from rich.console import Console

    from svg_export.hub.push import Push

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


@dataclass(frozen=True)
class PushOptions:
    """--push, --licence and --public.

    Raises:
        UsageError: an option that has no effect, or no identifier of a licence.
    """

    push: str | None
    licence: str | None
    public: bool

    def __post_init__(self) -> None:
        given = [name for name, value in {"--licence": self.licence, "--public": self.public}.items() if value]
        if self.push is None and given:
            raise UsageError(f"{', '.join(given)} has no effect without --push\n  add --push hf://user/name, or remove it")
        if self.licence is not None and not _LICENCE.fullmatch(self.licence):
            raise UsageError(
                f"invalid --licence '{self.licence}'\n  expected an identifier such as mit, apache-2.0, cc-by-4.0 or other; "
                "all are listed at https://huggingface.co/docs/hub/repositories-licenses"
            )

    def prepare(self) -> Push | None:
        """Check address, login and repository; None without --push."""
        if self.push is None:
            return None
        with defer_interrupts():
            from svg_export.hub.push import prepare_push

        return prepare_push(self.push, self.licence, self.public)


def push_and_report(prepared: Push, folder: Path, console: Console) -> str:
    """Push a bundle, print where it is, and return its address."""
    from svg_runtime.bundle.reader import Bundle

    address = str(prepared.run(Bundle.open(folder)))
    seen_by = "private: only you and your organisation see it" if prepared.private else "public"
    console.print(
        f"pushed {folder.name} to hf://{prepared.address.repo} ({seen_by})\n"
        f"  run it with: svg-live --model {shell_argument(address)}",
        markup=False,
    )
    return address
