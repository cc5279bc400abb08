"""Options that mean the same in every command that runs a bundle."""

from __future__ import annotations

from typing import Annotated

import typer

COUNT_LIMIT = 1 << 16  # of samples and of horizon: the Forecaster's own, whose import would slow --help down

ModelOption = Annotated[
    str | None, typer.Option(help="Bundle (*.svgb). Default: the newest in this folder, else the embedded model.")
]
SamplesOption = Annotated[int, typer.Option(min=1, max=COUNT_LIMIT, help="Sampled futures per frame.")]
HorizonOption = Annotated[int, typer.Option(min=1, max=COUNT_LIMIT, help="Forecast steps.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads of a processor. Default: one per usable core.")]
DeviceOption = Annotated[str | None, typer.Option(help="Device of the backend. Default: its own choice.")]
