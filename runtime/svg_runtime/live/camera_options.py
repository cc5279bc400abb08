"""Options of `svg-live` that say how a source is opened and what part of it is seen."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

ListCamerasOption = Annotated[
    bool,
    typer.Option(
        "--list-cameras", is_eager=True, help="List the cameras of this machine: sizes, rates, formats. Also as --json FILE."
    ),
]
CameraSizeOption = Annotated[
    str | None, typer.Option(metavar="WxH", help="Size asked of a camera at this machine. Default: the driver's.")
]
CameraFpsOption = Annotated[
    float | None, typer.Option(metavar="FPS", help="Rate asked of a camera at this machine. Default: the driver's.")
]
RotateOption = Annotated[
    Literal["0", "90", "180", "270"] | None, typer.Option(help="Rotate every picture clockwise, before everything else.")
]
FlipOption = Annotated[
    Literal["none", "horizontal", "vertical"] | None,
    typer.Option(help="Mirror every picture after --rotate: left to right, or upside down."),
]
RoiOption = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y,W,H",
        help="Part of the picture that the model looks at: left, top, width, height in pixels, or all four as fractions.",
    ),
]
LoopOption = Annotated[bool, typer.Option("--loop", help="Begin a file or folder anew at its end, until stopped.")]
