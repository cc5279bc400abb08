"""What an adaptation adds to the folder of a run: adaptation.json, how far it has come and its values, and a bundle at last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from svg_common.errors import SvgError
from svg_common.files import resolved, write_json

STATE = "adaptation.json"  # in the folder of the run
Stage = Literal["recording", "training", "comparing", "done"]


def exported_bundle(out: Path) -> Path:
    """Where the bundle of an adapted model lies, once it is worth one."""
    return out / f"{resolved(out).name}.svgb"


def read_stage(out: Path) -> Stage | None:
    """How far the adaptation in the folder of a run has come; None if there is none.

    Raises:
        SvgError: its adaptation.json is damaged.
    """
    file = out / STATE
    try:
        stage: Stage = json.loads(file.read_text(encoding="utf-8"))["stage"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise SvgError(f"'{file}' is damaged\n  choose another --out") from error
    return stage


def write_stage(out: Path, stage: Stage, **values: Any) -> None:
    """Write how far the adaptation has come, and its values once it is done."""
    write_json(out / STATE, {"stage": stage, **values})
