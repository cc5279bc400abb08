"""The bundles that are measured, by the names that `--bundle` takes: a path, `embedded`, or random weights.

`random:nf64` is a DCGAN-64 for gray frames with nf 64. `random:vgg-rgb-nf64` and `random:128-nf64` differ in what they
name, and `random:nf64-fp16` has graphs in fp16 too. `embedded-shuffled` is the embedded model with the graph decoder_shuffled,
which does not ship with it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from svg_common.command import require_modules
from svg_common.errors import UsageError
from svg_runtime.bundle.contract import SHUFFLED_DECODER
from svg_runtime.bundle.manifest import FILE_NAME, Precision
from svg_runtime.bundle.reader import EMBEDDED_MODEL, Bundle

DEFAULT = ("embedded", "random:nf64")
_RANDOM = re.compile(r"random:(?:(dcgan|vgg)-)?(?:(64|128)-)?(?:(gray|rgb)-)?nf([1-9]\d{0,2})(?:-(fp16|bf16))?")


def split_names(options: list[str] | None, default: Sequence[str] = DEFAULT) -> list[str]:
    """Names from a repeated option whose values may be comma lists; the default ones if it was not given."""
    names = [name.strip() for option in options or [] for name in option.split(",") if name.strip()]
    return list(dict.fromkeys(names)) or list(default)


def label(name: str) -> str:
    """A short name for tables."""
    return name if name in ("embedded", "embedded-shuffled") or name.startswith("random:") else Path(name).stem


def open_named(name: str, cache: Path, precision: Precision | None = None) -> Bundle:
    """Open a bundle. A random one is made first if `cache` does not have it.

    Args:
        name: as given with `--bundle`.
        cache: folder of the random bundles.
        precision: make a random bundle with this variant too, which takes longer.

    Raises:
        MissingExtraError: a random bundle has to be made, and the export extra is not installed.
        UsageError: the name of a random bundle is invalid.
        BundleError: the bundle does not exist or is damaged.
    """
    if name == "embedded-shuffled":
        return Bundle.open(_with_shuffled_decoder(EMBEDDED_MODEL, cache / _exporter_fingerprint() / f"{name}.svgb"))
    if not name.startswith("random:"):
        return Bundle.open(EMBEDDED_MODEL if name == "embedded" else name)
    return Bundle.open(_random_bundle(name, cache, precision))


def _random_bundle(name: str, cache: Path, precision: Precision | None) -> Path:
    """A model of the reference's sizes (g_dim 128, z_dim 10, rnn 256) with random weights, as time does not depend on them."""
    model, asked = random_model(name), _reduced(name)
    require_modules("the bundle of random weights", "export", "torch", "onnx", "onnxscript", "onnxruntime")
    reduced = asked or (precision if precision != "fp32" else None)
    stem = name.replace(":", "-").removesuffix(f"-{asked}") + (f"-{reduced}" if reduced else "")
    path = cache / _exporter_fingerprint() / f"{stem}.svgb"
    if not (path / FILE_NAME).is_file():
        _export_random(model, path, reduced)
    return path


def _with_shuffled_decoder(bundle: Path, path: Path) -> Path:
    """A copy of a bundle with the graph decoder_shuffled in its fp32 and bf16 variants."""
    require_modules("the shuffled decoder", "export", "torch", "onnx", "onnxscript")
    from svg_export.to_onnx import shuffled_decoder

    if (path / FILE_NAME).is_file():
        return path
    shutil.copytree(bundle, path)
    manifest = json.loads((path / FILE_NAME).read_text())
    content = shuffled_decoder((path / "fp32" / "decoder.onnx").read_bytes(), manifest["bundle_id"])
    assert content is not None
    (path / "fp32" / f"{SHUFFLED_DECODER}.onnx").write_bytes(content)
    stamp = {"file": f"fp32/{SHUFFLED_DECODER}.onnx", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    for precision in manifest["variants"].keys() & {"fp32", "bf16"}:
        graphs = manifest["variants"][precision]["graphs"]
        graphs[SHUFFLED_DECODER] = {**graphs["decoder"], **stamp}
    (path / FILE_NAME).write_text(json.dumps(manifest))
    return path


def random_model(name: str) -> dict[str, Any]:
    """The model's shape, as in the name."""
    match = _RANDOM.fullmatch(name)
    if match is None:
        raise UsageError(
            f"unknown bundle '{name}'\n  expected a path, embedded, embedded-shuffled, or random:nf64 (or another number), with"
            " vgg-, 128- and rgb- before nf64, in this order, and -fp16 or -bf16 after it, as you like"
        )
    backbone, size, colour, nf, _ = match.groups()
    return {
        "backbone": backbone or "dcgan", "image_size": int(size or 64), "channels": 3 if colour == "rgb" else 1, "nf": int(nf)
    }  # fmt: skip


def _reduced(name: str) -> Precision | None:
    """The reduced precision in the name."""
    match = _RANDOM.fullmatch(name)
    reduced: Precision | None = match.group(5) if match else None  # type: ignore[assignment]
    return reduced


def _export_random(model: dict[str, Any], path: Path, reduced: Precision | None) -> None:
    import torch
    from reference_networks import randomize

    from svg_export.bundle_writer import write_bundle
    from svg_export.precision import find_held_out
    from svg_train.checkpoint import Checkpoint
    from svg_train.config import build_config
    from svg_train.families.svg.model import SVG

    config = build_config({"model": model, "data": {"name": "video"}})  # which may be gray or RGB
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = SVG(config.model).apply(randomize).state_dict()
    checkpoint = Checkpoint(config, weights)
    # The quality of random weights is meaningless: two sequences are the fewest that a report needs.
    held_out = replace(find_held_out(checkpoint, {"name": "digits"}), sequences=2) if reduced else None
    sha256 = hashlib.sha256(b"random").hexdigest()
    half, brain = reduced == "fp16", reduced == "bf16"
    write_bundle(checkpoint=checkpoint, checkpoint_sha256=sha256, out=path, fp16=half, bf16=brain, held_out=held_out)


def _exporter_fingerprint() -> str:
    """Changes with the code that makes a bundle, so that the cache never holds graphs of an older exporter."""
    import svg_export
    import svg_train

    digest = hashlib.sha256(Path(__file__).with_name("reference_networks.py").read_bytes())
    for package in (svg_export, svg_train):
        for source in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]
