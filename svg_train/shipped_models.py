"""Checkpoints to start from: files, and those that ship with the package in `models/`."""

from __future__ import annotations

from pathlib import Path

from svg_common.errors import UsageError
from svg_common.files import refuse_pipe

_FOLDER = Path(__file__).with_name("models")


def shipped_models() -> dict[str, Path]:
    """Name -> checkpoint of every model that ships with the package."""
    return {file.stem: file for file in sorted(_FOLDER.glob("*.pt"))}


def find_checkpoint(init: str) -> Path:
    """The checkpoint that `--init` names: a file, else a shipped model. A file takes precedence.

    Raises:
        UsageError: there is neither, or it is a pipe.
    """
    path, shipped = Path(init), shipped_models()
    refuse_pipe(path)
    if path.exists() and not (path.is_dir() and init in shipped):  # the folder of a run may be called camera
        return path
    if init in shipped:
        return shipped[init]
    if "://" in init:
        raise UsageError(
            f"--init takes no address, but '{init}' was given: what is fetched holds graphs, not the weights that training "
            "needs\n  expected a checkpoint (ckpt.pt)"
        )
    names = (
        f"or one of the models in this package: {', '.join(shipped)}" if shipped else "as no model comes with this installation"
    )
    raise UsageError(
        f"no checkpoint '{init}': neither a file nor a model of this package\n"
        f"  expected a checkpoint (ckpt.pt), {names}\n  train one with: svg-train --config camera --data-root YOUR_VIDEOS/"
    )
