"""The options of the page on the command line of `svg-live`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_PANEL = "Page"

ServeOption = Annotated[
    str | None,
    typer.Option(
        metavar="[HOST:]PORT",
        rich_help_panel=_PANEL,
        help="Show the run on a page in a browser, on this machine alone. With a host, such as 0.0.0.0:8000, to others too, "
        "who need the token in the link that is printed. Port 0: any free one.",
    ),
]
ServeHostOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_PANEL,
        help="A further name of this machine by which browsers may ask, such as that of a proxy. May be given several times.",
    ),
]
ServeTokenOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=_PANEL,
        help="A file with the token for the page, at least 16 characters. Also: SVG_EDGE_TOKEN. Default: a new one is printed.",
    ),
]
