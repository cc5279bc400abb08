"""Tiny models of every family, by name, for the tests that try all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_FRAMES = {"family": "frames", "hidden": (2, 2), "image_size": 16, "patch_size": 4, "n_past": 3}
_SRVP = {
    "family": "srvp", "nf": 2, "nhx": 8, "ny": 4, "nz": 3, "nt_inf": 2, "n_past": 3, "inference_size": 8, "residual_size": 8,
}  # fmt: skip

TINY_MODELS: dict[str, dict[str, Any]] = {
    "spatial": {"latent": "spatial", "nf": 2, "g_dim": 4, "rnn_size": 4, "z_dim": 2, "n_past": 3},
    "deterministic": {"prior": "none", "nf": 2, "g_dim": 8, "rnn_size": 8, "n_past": 3},
    "srvp": _SRVP,
    "srvp-skips": {**_SRVP, "backbone": "vgg", "skips": True, "n_euler_steps": 2},
    "ensemble": {
        "family": "ensemble", "channels": 1, "image_size": 16, "widths": (2, 3, 4), "decoder_widths": (3, 2), "blocks": 1,
        "state_size": 4, "noise_maps": 1, "noise_vector": 2, "n_past": 3, "leads": 2,
    },
    **{cell: {**_FRAMES, "cell": cell} for cell in ("convlstm", "predrnn", "predrnn-v2", "predrnnpp", "mim", "e3d-lstm")},
}  # fmt: skip
SAMPLE = {"srvp-skips", "ensemble", "predrnn"}  # of tests that try many of them by default: one of each kind of graphs


def save_tiny(name: str, path: Path, **changed: Any) -> Path:
    """Write a checkpoint of a new network."""
    import torch

    from svg_train.checkpoint import Checkpoint, save_checkpoint
    from svg_train.config import build_config
    from svg_train.families import FAMILIES

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = {**TINY_MODELS[name], **changed}
    config = build_config({"model": model, "data": {"name": "video" if model.get("channels") == 3 else "digits"}})
    network = FAMILIES[config.model.family].build(config.model)
    save_checkpoint(path, Checkpoint(config, network.state_dict(), step=3, frame_interval_s=0.1))
    return path


def export_tiny(name: str, path: Path, **changed: Any) -> Path:
    """The fp32 bundle of such a network."""
    from svg_export.bundle_writer import write_bundle
    from svg_train.checkpoint import load_checkpoint
    from tests.conftest import without_tracer

    checkpoint = load_checkpoint(save_tiny(name, path.with_suffix(".pt"), **changed))
    with without_tracer():
        write_bundle(checkpoint=checkpoint, checkpoint_sha256="0" * 64, out=path, fp16=False)
    return path
