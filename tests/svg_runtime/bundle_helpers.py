"""Damages copies of real bundles, and runs PyTorch's own generation rule in the runtime's layout."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from svg_runtime import Forecaster


def copy_bundle(bundle: Path, folder: Path) -> Path:
    return Path(shutil.copytree(bundle, folder / "model.svgb"))


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    file = bundle / "manifest.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return bundle


def replace_graph(bundle: Path, graph_name: str, content: bytes, precision: str = "fp32") -> Path:
    """Replace a graph's bytes like an attacker who can also write the manifest: size and hash match."""
    (bundle / precision / f"{graph_name}.onnx").write_bytes(content)

    def restamp(manifest):
        spec = manifest["variants"][precision]["graphs"][graph_name]
        spec["bytes"], spec["sha256"] = len(content), hashlib.sha256(content).hexdigest()

    return edit_manifest(bundle, restamp)


def move_graphs(bundle: Path) -> Path:
    """Into the folder `graphs`: a bundle may have its fp32 graphs under any name, but is then not taken from an address."""
    (bundle / "fp32").rename(bundle / "graphs")
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"fp32/', '"graphs/'))
    return bundle


def graph_bytes(bundle: Path, graph_name: str, precision: str = "fp32") -> bytes:
    return (bundle / precision / f"{graph_name}.onnx").read_bytes()


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def to_torch(frames: np.ndarray, samples: int) -> torch.Tensor:
    """(T, H, W, C) -> (T, samples, C, H, W)."""
    return torch.from_numpy(np.moveaxis(frames, -1, 1).copy())[:, None].repeat(1, samples, 1, 1, 1)


def from_torch(frames: torch.Tensor) -> np.ndarray:
    """(T, samples, C, H, W) -> (samples, T, H, W, C)."""
    return frames.numpy().transpose(1, 0, 3, 4, 2)


def generated(model, frames: np.ndarray, noise: np.ndarray, context_noise: np.ndarray) -> np.ndarray:
    """What PyTorch forecasts after the last n_past of `frames`, as `Forecaster.forecast` lays it out."""
    past = to_torch(frames[-model.config.n_past :], noise.shape[1])
    return from_torch(model.generate(past, torch.from_numpy(noise), torch.from_numpy(context_noise)))


def watch(bundle: Path, frames: np.ndarray, **opened: Any) -> tuple[list[list[float]], np.ndarray]:
    """Return surprise and scores of every frame, and the forecasts after each frame once the forecaster is ready."""
    observed, futures = [], []
    with Forecaster.open(bundle, **opened) as forecaster:
        for frame in frames:
            observation = forecaster.observe(frame)
            observed.append([observation.surprise or 0.0, *(score.psnr_best for score in observation.scores)])
            if forecaster.ready:
                futures.append(forecaster.forecast())
    return observed, np.stack(futures)
