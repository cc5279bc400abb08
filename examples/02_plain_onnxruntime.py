"""A bundle with plain ONNX Runtime and none of our code: the steps for any language with ONNX Runtime.

    python examples/02_plain_onnxruntime.py [BUNDLE]

A bundle is ONNX graphs and a manifest.json that says how they fit together. These are the steps of the family svg; the others
have other graphs (docs/export.md#the-graphs).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at the import: otherwise it reports to Microsoft
import onnxruntime as ort

EMBEDDED = Path(__file__).parents[1] / "runtime/svg_runtime/embedded/digits.svgb"
GRAPHS = ("encoder", "skip", "predictor", "decoder", "posterior", "prior")  # a bundle may lack the last two
GAUSSIANS = {"learned": {"posterior", "prior"}, "fixed": {"posterior"}, "none": set[str]()}  # of them, by the prior
COUNTS = {"n_past": (2, 1024), "skip_lag": (0, 1), "z_dim": (0, 65536), "height": (1, 65536), "width": (1, 65536)}  # bounds
OF_VARIANT = {"lp": "learned", "fp": "fixed", "det": "none"}  # in older bundles, in place of the prior


def read_manifest(bundle: Path) -> dict[str, Any]:
    """The manifest, if it is of the form and has the graphs that this program knows."""
    try:
        manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"cannot read the manifest of {bundle}: {error}\n  expected a *.svgb folder") from None
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if type(version) is not int or version != 1:
        raise SystemExit(f"{bundle} has schema version {version!r}; expected 1")
    graphs = table(manifest, "variants", "fp32", "graphs")
    if not set(GRAPHS[:4]) <= graphs.keys():
        raise SystemExit(f"{bundle} has other graphs: {', '.join(graphs)}; expected a bundle of the family svg")
    for name in GRAPHS:
        if name in graphs:
            check_graph(bundle, name, table(manifest, "variants", "fp32", "graphs", name))
    model, rule, frame = table(manifest, "model"), table(manifest, "generation"), table(manifest, "frame")
    values = {**rule, **model, **frame}
    for name, (low, high) in COUNTS.items():
        if type(values.get(name)) is not int or not low <= values[name] <= high:
            raise SystemExit(f"{bundle}: {name} is {values.get(name)!r}; expected a whole number from {low} to {high}")
    if type(rule.get("last_frame_skip")) is not bool:
        raise SystemExit(f"{bundle}: last_frame_skip is {rule.get('last_frame_skip')!r}; expected true or false")
    prior = str(model.get("prior", OF_VARIANT.get(str(model.get("variant")))))
    given = {"posterior", "prior"} & graphs.keys()
    if (prior, given) not in GAUSSIANS.items():
        raise SystemExit(f"{bundle} has the prior {prior} and the graphs {given}; expected one of {GAUSSIANS}")
    form = frame.get("channels"), frame.get("colour_order"), frame.get("range")
    if form not in ((1, "gray", [0, 1]), (3, "RGB", [0, 1])):
        raise SystemExit(f"{bundle} has frames of the form {form}; expected gray or RGB from 0 to 1")
    return manifest


def table(content: Any, *names: str) -> dict[str, Any]:
    """The table at a path of the manifest."""
    for name in names:
        content = content.get(name) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        raise SystemExit(f"the manifest has no table {'.'.join(names)}; export the bundle again")
    return content


def check_graph(bundle: Path, name: str, spec: dict[str, Any]) -> None:
    """Refuse a graph of which the manifest does not say what this program needs."""
    kinds = {"file": str, "sha256": str, "inputs": list, "outputs": list}
    lacking = [key for key, kind in kinds.items() if not isinstance(spec.get(key), kind)]
    for tensor in [] if lacking else [*spec["inputs"], *spec["outputs"]]:
        if not isinstance(tensor, dict) or not isinstance(tensor.get("shape"), list) or "name" not in tensor:
            lacking = ["names or shapes"]
    if lacking:
        raise SystemExit(f"{bundle}: the graph {name} lacks {', '.join(lacking)}; export the bundle again")


def open_graph(bundle: Path, spec: dict[str, Any]) -> ort.InferenceSession:
    """A session of an ONNX file, if it is the one that was exported."""
    try:
        content: bytes = (bundle / spec["file"]).read_bytes()
    except OSError as error:
        raise SystemExit(f"cannot read a graph of {bundle}: {error}; export the bundle again") from None
    if hashlib.sha256(content).hexdigest() != spec["sha256"]:
        raise SystemExit(f"{bundle}: {spec['file']} changed since export; export the bundle again")
    try:
        return ort.InferenceSession(content)
    except Exception as error:  # ONNX Runtime raises its own unrelated classes
        raise SystemExit(f"cannot open {spec['file']} of {bundle}: {error}; export the bundle again") from None


def forecast(bundle: Path, frames: np.ndarray, context_noise: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Sample the futures of `frames`.

    Args:
        bundle: a *.svgb folder.
        frames: (n_past, H, W, C) float32 in [0, 1].
        context_noise: (n_past - 1, samples, z_dim) standard normal draws.
        noise: (horizon, samples, z_dim) standard normal draws.

    Returns:
        (samples, horizon, H, W, C) float32.
    """
    manifest = read_manifest(bundle)
    rule, graphs = manifest["generation"], manifest["variants"]["fp32"]["graphs"]
    sessions = {name: open_graph(bundle, graphs[name]) for name in GRAPHS if name in graphs}
    states: dict[str, np.ndarray] = {}  # recurrent state of posterior, prior and predictor, zeros at first
    samples = noise.shape[1]

    def run(name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for tensor in graphs[name]["inputs"]:
            if tensor["name"] == "state":
                shape = [samples if size == "batch" else size for size in tensor["shape"]]
                inputs = {**inputs, "state": states.get(name, np.zeros(shape, np.float32))}
        names = [tensor["name"] for tensor in graphs[name]["outputs"]]
        outputs = dict(zip(names, sessions[name].run(names, inputs), strict=True))
        states[name] = outputs.pop("state_out", np.empty(0))
        return outputs

    def predict(h: np.ndarray, gaussian: dict[str, np.ndarray] | None, eps: np.ndarray) -> np.ndarray:
        z = eps if gaussian is None else gaussian["mu"] + np.exp(gaussian["logvar"] / 2) * eps
        takes_z = any(tensor["name"] == "z" for tensor in graphs["predictor"]["inputs"])
        return run("predictor", {"h": h, "z": z} if takes_z else {"h": h})["g"]

    # 1. Encode the observed frames, and compute the decoder's skip conditions once for the whole forecast.
    seen = [run("encoder", {"frame": frame.transpose(2, 0, 1)[None]}) for frame in frames]
    encodings = [np.repeat(outputs.pop("h"), samples, axis=0) for outputs in seen]
    conditions = run("skip", seen[-1 if rule["last_frame_skip"] else -1 - rule["skip_lag"]])

    # 2. Read the context: the posterior sees the next frame, prior and predictor the one before it.
    for h, h_next, eps in zip(encodings[:-1], encodings[1:], context_noise, strict=True):
        gaussian = run("posterior", {"h": h_next}) if "posterior" in graphs else None
        if "prior" in graphs:
            run("prior", {"h": h})
        predict(h, gaussian, eps)

    # 3. Forecast in closed loop: the latent comes from the prior, and every forecast frame is encoded again.
    h, futures = encodings[-1], []
    for eps in noise:
        g = predict(h, run("prior", {"h": h}) if "prior" in graphs else None, eps)
        futures.append(run("decoder", {"g": g, **conditions})["frame"])
        skips = run("encoder", {"frame": futures[-1]})
        h = skips.pop("h")
        if rule["last_frame_skip"]:
            conditions = run("skip", skips)
    forecast_frames: np.ndarray = np.stack(futures, axis=1).transpose(0, 1, 3, 4, 2)
    return forecast_frames


def main() -> None:
    bundle = Path(sys.argv[1]) if len(sys.argv) > 1 else EMBEDDED
    manifest = read_manifest(bundle)
    n_past, z_dim, spec = manifest["generation"]["n_past"], manifest["model"]["z_dim"], manifest["frame"]
    frames = np.zeros((n_past, spec["height"], spec["width"], spec["channels"]), np.float32)
    for step, frame in enumerate(frames):  # a square that moves to the right
        frame[20:40, 10 + 3 * step : 16 + 3 * step] = 1
    draw = np.random.default_rng(0).standard_normal
    futures = forecast(bundle, frames, draw((n_past - 1, 3, z_dim), np.float32), draw((10, 3, z_dim), np.float32))
    print(f"{len(futures)} futures of {futures.shape[1]} frames, mean brightness per step:")
    print(np.round(futures.mean(axis=(0, 2, 3, 4)), 3))


if __name__ == "__main__":
    main()
