"""Recipes: TOML files with the settings of a run, your own or the built-in ones in `recipes/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from svg_common.errors import UsageError
from svg_common.files import refuse_pipe
from svg_common.toml_files import read_toml

_SHIPPED = Path(__file__).with_name("recipes")


def load_recipe(recipe: str) -> dict[str, Any]:
    """Read the tables [model], [data] and [train] as plain values.

    Args:
        recipe: path of a file, or the name of a built-in recipe. A file takes precedence.

    Raises:
        UsageError: neither the file nor the recipe exists, or it is a pipe, or it is not TOML.
    """
    try:
        return read_toml(_find(recipe))
    except (OSError, ValueError, RecursionError) as error:  # not TOML, numbers or tables beyond Python's limits
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"cannot read the recipe '{recipe}': {reason}\n  expected a TOML file with the tables [model], [data] and [train]"
        ) from error


def shipped_recipes() -> dict[str, str]:
    """Name -> purpose, the first line of the recipe's comment."""
    return {name: file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for name, file in _shipped().items()}


def _find(recipe: str) -> Path:
    path, shipped = Path(recipe), _shipped()
    refuse_pipe(path)
    if path.exists() and not (path.is_dir() and recipe in shipped):  # a folder of clips may be called video
        return path
    if recipe in shipped:
        return shipped[recipe]
    raise UsageError(
        f"unknown recipe '{recipe}': neither a file nor a built-in recipe\n"
        f"  expected a TOML file, or one of {', '.join(shipped)}\n  list them with: svg-train --list-recipes"
    )


def _shipped() -> dict[str, Path]:
    return {file.stem: file for file in sorted(_SHIPPED.glob("*.toml"))}
