"""docs/export.md says all that a program must write: its own program makes a bundle, and its lists are those of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from svg_common import protobuf_wire
from svg_common.frame_statistics import STATISTICS, Distribution, TrainingData
from svg_runtime import Forecaster
from svg_runtime.bundle import manifest as parts
from svg_runtime.bundle import reader
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BundleError

PAGE = Path(__file__).resolve().parents[3].joinpath("docs", "export.md").read_text(encoding="utf-8")
FORMAT = PAGE.partition("\n## The format\n")[2].partition("\n## ")[0]
PROGRAM = FORMAT.partition("```python\n")[2].partition("```")[0]
OBJECTS = {
    "the manifest": parts.Manifest, "model": parts.ModelSpec, "frame": parts.FrameSpec, "generation": parts.GenerationSpec,
    "variant": parts.PrecisionVariant, "graph": parts.GraphSpec, "tensor": parts.TensorSpec, "state": parts.StateSpec,
    "parity": parts.ParityReport, "curve": parts.ErrorCurve, "quality": parts.QualityReport,
    "divergence": parts.DivergenceReport, "metric": parts.PairedDifference, "provenance": parts.Provenance,
    "training_data": TrainingData, "statistic": Distribution,
}  # fmt: skip


def write(program: str, folder: Path, monkeypatch) -> Path:
    monkeypatch.chdir(folder)
    exec(compile(program, "docs/export.md", "exec"), {})
    return folder / "repeat.svgb"


def test_the_program_of_the_page_writes_a_bundle(tmp_path, monkeypatch):
    bundle = write(PROGRAM, tmp_path, monkeypatch)
    Bundle.open(bundle).check()
    with Forecaster.open(bundle, backend="cpu", horizon=2) as forecaster:
        assert forecaster.description.endswith("fp32 graphs without layers that have weights")
        for grey in (0.2, 0.6):
            forecaster.observe(np.full((16, 16, 1), grey, np.float32))
        np.testing.assert_array_equal(forecaster.forecast()[0], np.full((2, 16, 16, 1), 0.6, np.float32))


def test_the_error_of_a_graph_without_metadata_names_the_keys(tmp_path, monkeypatch):
    (line,) = (line for line in PROGRAM.splitlines() if "set_model_props" in line)
    with pytest.raises(BundleError) as refusal:
        Bundle.open(write(PROGRAM.replace(line, ""), tmp_path, monkeypatch)).check()
    assert "its metadata has {'svg_bundle_id': None, 'svg_graph': None}, expected {'svg_bundle_id': '" in str(refusal.value)


def test_the_page_has_all_keys_of_the_manifest():
    rows = re.findall(r"^\| ([\w ]+) \|([^|]*)\|([^|]*)\|$", FORMAT.partition("\n| object | ")[2], re.M)
    listed = {name: [set(re.findall(r"`(\w+)`", cell)) for cell in cells] for name, *cells in rows}
    assert listed == {name: [_keys(part, required=True), _keys(part, required=False)] for name, part in OBJECTS.items()}


@pytest.mark.parametrize("name", ["digits", "camera"])
def test_the_page_has_all_keys_of_the_embedded_bundles(name):
    """That of the digits is of an older form."""
    manifest = json.loads((reader.EMBEDDED_FOLDER / f"{name}.svgb" / "manifest.json").read_text(encoding="utf-8"))
    variant = manifest["variants"]["fp32"]
    inner = [manifest[part] for part in ("model", "frame", "generation", "provenance")]
    objects = [manifest, *inner, variant, variant["parity"], *variant["graphs"].values()]
    assert {key for each in objects for key in each} - set(re.findall(r"`(\w+)`", FORMAT)) == set()


def _keys(part: type[BaseModel], required: bool) -> set[str]:
    return {name for name, field in part.model_fields.items() if field.is_required() == required}


def test_the_page_has_the_axes_and_the_limits():
    limits = [
        f"manifest.json: {reader.MANIFEST_LIMIT >> 20} MiB", f"file: {reader.GRAPH_LIMIT >> 30} GiB",
        f"{parts._MAX_TENSORS} inputs and {parts._MAX_TENSORS} outputs", f"{protobuf_wire._MAX_FIELDS} fields",
        f"{parts._MAX_AXES} axes", f"2^{parts._MAX_ELEMENTS.bit_length() - 1} elements",
        f"a graph: 2^{parts._MAX_GRAPH_ELEMENTS.bit_length() - 1}",
    ]  # fmt: skip
    assert [limit for limit in limits if limit not in FORMAT] == []
    assert [axis for axis in (parts.BATCH, parts.COND_BATCH, parts.SAMPLES) if f"| `{axis}`" not in FORMAT] == []
    assert [name for name in STATISTICS if f"| `{name}` |" not in PAGE] == []
