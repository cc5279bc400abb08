"""Put the page together that runs the shipped models in a browser: python docs/demo/build.py [FOLDER]

FOLDER (default: build/demo/site) is then a page without server logic: python -m http.server --directory build/demo/site

The page's own files lie here. Into FOLDER come beside them:

    ort/           onnxruntime-web, at the version of package-lock.json, whose hashes npm checks (Node.js and npm are needed),
                   and the licenses of ONNX Runtime and of what is in it, from the Python package that is installed
    models/        the bundles that ship with the package
    *.mjs          the forecast loop, from examples/03_javascript
    page.css, ...  style and chart of the page of svg-live
    shared.json    strokes of the synthetic digits, colors of heat maps, and what the camera model was trained on
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

from svg_common.digits import DIGIT_SIZE, glyphs, motion
from svg_common.files import atomic_directory
from svg_runtime.bundle.reader import EMBEDDED_FOLDER, Bundle

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "demo"
PAGE = ("index.html", "demo.css", "*.js")
ORT = (
    "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm",
)  # fmt: skip
LOOP = ("forecaster.mjs", "contexts.mjs", "graphs.mjs", "manifest.mjs", "noise.mjs")
SVG_LIVE = ("page.css", "chart.js", "icon.svg")
LICENSES = {"LICENSE": "LICENSE.txt", "ThirdPartyNotices.txt": "ThirdPartyNotices.txt"}  # of ONNX Runtime, in its wheel


class BuildError(Exception):
    """The page cannot be put together; the message says why, and what to do."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=BUILD / "site", help="Where the page is put, replaced if there."
    )
    options = parser.parse_args(arguments)
    try:
        build(options.folder)
    except (BuildError, OSError) as error:
        sys.exit(f"Error: {error}")
    print(f"{options.folder}: {sum(path.stat().st_size for path in options.folder.rglob('*') if path.is_file()) >> 20} MB")


def build(folder: Path) -> None:
    """Write the whole page into `folder`, or nothing.

    Raises:
        BuildError: `folder` has something else in it, a license is missing, or npm is not available or failed.
        OSError: a file cannot be written.
    """
    if folder.exists() and (not (folder / "demo.js").is_file() or (folder / "build.py").exists()):  # these are the sources
        raise BuildError(f"{folder} exists, and is not this page\n  expected a new folder, or one with an earlier build")
    licenses = installed_licenses()
    packages = installed_packages()
    with atomic_directory(folder) as site:
        for pattern in PAGE:
            for path in HERE.glob(pattern):
                shutil.copy(path, site)
        copy(packages / "onnxruntime-web" / "dist", ORT, site / "ort")
        for source, name in licenses.items():
            shutil.copy(source, site / "ort" / name)
        copy(ROOT / "examples" / "03_javascript", LOOP, site)
        copy(ROOT / "runtime" / "svg_runtime" / "live" / "page" / "static", SVG_LIVE, site)
        shutil.copytree(ROOT / "runtime" / "svg_runtime" / "embedded", site / "models")
        (site / "shared.json").write_text(json.dumps(shared_tables()), encoding="utf-8")


def copy(source: Path, names: tuple[str, ...], folder: Path) -> None:
    """Copy files into `folder`."""
    folder.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(source / name, folder)


def installed_licenses() -> dict[Path, str]:
    """Return the licenses of ONNX Runtime, each with its name in the page; the package of npm has none.

    Raises:
        BuildError: one is missing in the installed Python package.
    """
    licenses = {Path(ort.__file__).parent / name: copied for name, copied in LICENSES.items()}
    for source in licenses:
        if not source.is_file():
            advice = f"run: pip install --force-reinstall --no-deps onnxruntime=={ort.__version__}"
            raise BuildError(f"{source} is missing, which the page has beside ONNX Runtime\n  {advice}")
    return licenses


def installed_packages() -> Path:
    """Return node_modules with exactly what package-lock.json says, installed once per content of that file.

    Raises:
        BuildError: npm is not installed, or failed.
    """
    lock = (HERE / "package-lock.json").read_bytes()
    installed = BUILD / f"npm-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not installed.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise BuildError("npm is not installed, which fetches onnxruntime-web\n  run: apt-get install -y nodejs npm")
        with atomic_directory(installed) as folder:
            copy(HERE, ("package.json", "package-lock.json"), folder)
            # npm ci takes nothing but what the lock file names, and refuses what has another hash. No package runs a script.
            options = ("--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-retry-mintimeout=2000")
            done = subprocess.run([npm, "ci", *options], cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = f"npm ci failed, with exit code {done.returncode}:\n{done.stderr.strip()}"
                raise BuildError(f"{reason}\n  check the network, and run it again")
    return installed / "node_modules"


def shared_tables() -> dict[str, object]:
    """What Python and JavaScript both draw with, and what the page says of its models."""
    trained = Bundle.open(EMBEDDED_FOLDER / "camera.svgb").manifest.training_data
    assert trained is not None
    levels = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_INFERNO)
    return {
        "strokes": [glyphs.STROKES[digit] for digit in range(10)],
        "jitter": glyphs.JITTER,
        "pointsPerSegment": glyphs.POINTS_PER_SEGMENT,
        "edgePx": glyphs.EDGE_PX,
        "digitSize": DIGIT_SIZE,
        "maxSpeed": motion.MAX_SPEED,
        "inferno": cv2.cvtColor(levels, cv2.COLOR_BGR2RGB).reshape(256, 3).tolist(),
        "cameraTraining": trained.description.partition(";")[0],  # numbers of files and sequences follow
    }


if __name__ == "__main__":
    main()
