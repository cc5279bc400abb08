"""Models: those in the package, and bundles in this folder."""

from __future__ import annotations

from pathlib import Path

from svg_runtime.bundle.reader import EMBEDDED_FOLDER, Bundle
from svg_runtime.doctor.finding import Finding
from svg_runtime.errors import SvgError

_MOST = 20  # bundles of a folder


def check() -> list[Finding]:
    """Read every graph and compare it with its hash."""
    embedded = sorted(EMBEDDED_FOLDER.glob("*.svgb"))
    if not embedded:
        advice = "pip install --force-reinstall svg-edge"
        return [Finding("embedded", "problem", "this installation has no embedded model", advice)]
    here = sorted(Path.cwd().glob("*.svgb"))
    findings = [_look(path, f"{path.stem} (embedded)") for path in embedded] + [_look(path, path.name) for path in here[:_MOST]]
    if len(here) > _MOST:
        findings.append(Finding("others", "info", f"{len(here) - _MOST} more bundles in this folder were not read"))
    return findings


def _look(path: Path, name: str) -> Finding:
    try:
        bundle = Bundle.open(path)
        bundle.check()
    except (SvgError, OSError) as error:
        reason, *advice = str(error).splitlines()
        return Finding(name, "problem", reason, "\n".join(advice))
    frame = bundle.manifest.frame
    size = f"{frame.width} x {frame.height}, {'gray' if frame.channels == 1 else 'colour'}"
    return Finding(name, "ok", f"{size}, {', '.join(bundle.manifest.variants)}")
