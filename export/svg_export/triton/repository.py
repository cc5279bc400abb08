"""Writes the models of a bundle into model repositories of Triton, one repository for each of its backends.

    DIR/python/NAME/                              config.pbtxt, 1/model.py, 1/NAME.svgb/
    DIR/onnxruntime/NAME-forecast-onnxruntime/    config.pbtxt, 1/model.onnx
    DIR/tensorrt/NAME-forecast-tensorrt/          config.pbtxt, 1/model.onnx, build-plan.sh, which makes 1/model.plan

They are separate because a server does not start with a model whose backend it lacks. The graph `step` is there too where
Triton can keep its states. Models of this name that were written before are replaced, or removed where the bundle has no such
graph any more; others in the repositories stay. Those of a bundle with another name, which gives the same models, are refused.

Models are written in DIR itself: Triton reads every folder of a repository, hidden ones too, and does not start with one that
is no model.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from svg_common.errors import UsageError
from svg_common.files import atomic_directory, folder_name, remove_directory
from svg_common.path_advice import shell_argument
from svg_export.triton.model_configs import (
    GraphBackend,
    ServingChoice,
    forecast_config,
    keeps_states_by_sequence,
    python_config,
    step_config,
)
from svg_export.triton.prototext import prototext
from svg_runtime.backends import nvidia_precision
from svg_runtime.backends.nvidia.engine_files import BUNDLE_FOLDER as ENGINES
from svg_runtime.backends.tensorrt.engine import list_engines, record_of
from svg_runtime.bundle.manifest import BATCH, FILE_NAME, FORECAST, SAMPLES, GraphSpec, Precision, PrecisionVariant
from svg_runtime.bundle.reader import Bundle
from svg_runtime.bundle.remote.published import graph_files

_LOG = logging.getLogger(__name__)
_MARK = "# Written by svg-export --triton, which replaces this folder.\n"
_BUNDLE = "# Bundle: "  # the line after the mark: the name of the bundle's folder, as JSON
_CONFIG = "config.pbtxt"
_MODEL_PY = '''"""The model is in svg_runtime, which must be installed for the Python of the server's Python backend."""

from svg_runtime.triton.python_model import TritonPythonModel as TritonPythonModel
'''
# TensorRT alone: the precision of a graph is in its types. An engine fits only the GPU and the release that build it.
_BUILD_PLAN = """#!/bin/sh
# Builds 1/model.plan. Run it on the server's GPU, with trtexec of the server's TensorRT release.
set -eu
cd "$(dirname "$0")"
exec "${{TRTEXEC:-trtexec}}" --onnx=1/model.onnx --saveEngine=1/model.plan --stronglyTyped \\
  --minShapes={smallest} \\
  --optShapes={usual} \\
  --maxShapes={largest}
"""
_CONFIGS: dict[str, Callable[..., dict[str, Any]]] = {FORECAST: forecast_config, "step": step_config}


def write_repositories(bundle: Bundle, name: str, out: Path, choice: ServingChoice) -> list[Path]:
    """Write a bundle's models, each of which appears whole or not at all; returns their folders.

    Args:
        bundle: opened.
        name: of the models, see `model_name`.
        out: folder of the repositories.
        choice: what the user chooses.

    Raises:
        UsageError: a folder of one of these names exists and was not written by this function, or from another bundle.
        BundleError: the bundle is damaged, or another one has taken its place meanwhile.
        OSError: a folder cannot be written.
    """
    refuse_foreign_models(out, name, bundle.path)
    bundle.check()
    written = [_write_python(bundle, name, out, choice)]
    precisions: dict[GraphBackend, Precision] = {"onnxruntime": "fp32", "tensorrt": nvidia_precision(bundle.manifest)}
    for backend, precision in precisions.items():
        written += [
            _write_graph(
                bundle=bundle,
                model=f"{name}-{role}-{backend}",
                backend=backend,
                role=role,
                precision=precision,
                out=out,
                choice=choice,
            )
            for role in served_graphs(bundle.manifest.variants.get(precision))
        ]
    for folder in set(_folders(out, name)).difference(written):  # of an earlier bundle: ours, see above
        if folder.exists():
            _LOG.info("removing %s, which this bundle does not have", folder)
        if folder.parent.is_dir():  # a killed export may have left a part of it
            remove_directory(folder, stage=out)
    return written


def served_graphs(variant: PrecisionVariant | None) -> list[str]:
    """The graphs that other backends than Python can run; none of a precision that the bundle does not have."""
    if variant is None:
        return []
    roles = [FORECAST] if variant.forecast is not None else []
    return roles + (["step"] if "step" in variant.graphs and keeps_states_by_sequence(variant.graphs["step"]) else [])


def model_name(bundle: Path) -> str:
    """The name of a bundle's models: that of its folder, in the characters that Triton's addresses take as they are."""
    return re.sub(r"[^\w.-]+", "-", folder_name(bundle).removesuffix(".svgb"), flags=re.ASCII).strip("-.") or "model"


def refuse_foreign_models(out: Path, name: str, bundle: Path) -> None:
    """Refuse to replace folders that are not ours, and models of a bundle with another name.

    Args:
        out: folder of the repositories.
        name: of the models.
        bundle: whose models would be written.

    Raises:
        UsageError: there is one.
    """
    sources: dict[Path, str | None] = {}
    for folder in filter(Path.exists, _folders(out, name)):
        config = _own_config(folder)
        if config is None:
            raise UsageError(
                f"'{folder}' exists and was not written by svg-export --triton\n  move it, or choose another folder"
            )
        sources[folder] = _bundle_of(config)
    for folder, source in sources.items():
        if source not in (None, folder_name(bundle)):
            old = [shell_argument(each) for each, from_bundle in sources.items() if from_bundle == source]
            raise UsageError(
                f"'{folder}' is a model of the bundle '{source}', and '{folder_name(bundle)}' would replace it: "
                f"both give models of the name '{name}'\n"
                "  expected a bundle with another name, or another folder after --triton; or remove the old models: "
                f"rm -r {' '.join(old)}"
            )


def _folders(out: Path, name: str) -> Iterator[Path]:
    yield out / "python" / name
    for backend in ("onnxruntime", "tensorrt"):
        for role in _CONFIGS:
            yield out / backend / f"{name}-{role}-{backend}"


def _own_config(folder: Path) -> str | None:
    """The configuration of a model that was written here; None for others."""
    try:
        config = (folder / _CONFIG).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return config if config.startswith(_MARK) else None


def _bundle_of(config: str) -> str | None:
    """The name of the bundle that a model was written from; None where an earlier version did not note it."""
    line = config.removeprefix(_MARK).partition("\n")[0]
    try:
        return str(json.loads(line.removeprefix(_BUNDLE))) if line.startswith(_BUNDLE) else None
    except ValueError:
        return None


def _write_python(bundle: Bundle, name: str, out: Path, choice: ServingChoice) -> Path:
    folder, beside = out / "python" / name, f"{name}.svgb"
    with atomic_directory(folder, stage=out) as partial:
        version = _version_folder(partial, bundle, python_config(name, beside, bundle.manifest, choice))
        (version / "model.py").write_text(_MODEL_PY, encoding="utf-8")
        _copy_bundle(bundle, version / beside)
    return folder


def _copy_bundle(bundle: Bundle, folder: Path) -> None:
    """Copy the manifest, the graphs that it names and the engines beside them; whatever else lies there is the user's own."""
    engines = [file for file, _ in list_engines(bundle.path / ENGINES) if file.is_file()]
    for name in (FILE_NAME, *sorted(graph_files(bundle.manifest))):
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(bundle.content(name))
    for file in [*engines, *map(record_of, engines)]:
        copy = folder / file.relative_to(bundle.path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def _write_graph(
    bundle: Bundle, model: str, backend: GraphBackend, role: str, precision: Precision, out: Path, choice: ServingChoice
) -> Path:
    folder = out / backend / model
    spec = bundle.manifest.variants[precision].files[role]
    with atomic_directory(folder, stage=out) as partial:
        version = _version_folder(partial, bundle, _CONFIGS[role](model, backend, spec, choice))
        (version / "model.onnx").write_bytes(bundle.content(spec.file))
        if backend == "tensorrt":
            script = partial / "build-plan.sh"
            script.write_text(_build_script(spec, choice), encoding="utf-8")
            script.chmod(0o755)
    return folder


def _version_folder(folder: Path, bundle: Bundle, config: dict[str, Any]) -> Path:
    source = f"{_BUNDLE}{json.dumps(folder_name(bundle.path))}\n"
    (folder / _CONFIG).write_text(_MARK + source + prototext(config), encoding="utf-8")
    version = folder / "1"
    version.mkdir()
    return version


def _build_script(spec: GraphSpec, choice: ServingChoice) -> str:
    """Shapes for one camera and one sample, and for all: only a whole number of samples is dynamic besides the batch."""

    def shapes(cameras: int, samples: int) -> str:
        sizes = {BATCH: cameras, SAMPLES: samples}
        return ",".join(
            f"{tensor.name}:{'x'.join(str(sizes.get(str(size), size)) for size in tensor.shape)}" for tensor in spec.inputs
        )

    return _BUILD_PLAN.format(
        smallest=shapes(1, 1),
        usual=shapes(choice.cameras, choice.samples),
        largest=shapes(choice.cameras, choice.samples),
    )
