"""Writes the seeds that are not text, once: python -m tests.fuzz.make_seeds. They are small, and part of the repository."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from benchmarks.reference_networks import build
from svg_runtime.backends.tensorrt.engine import EngineKey, record_of, write_engine
from svg_runtime.calibration.decisions import Decision
from svg_runtime.calibration.race import Row
from svg_runtime.calibration.ways import Way
from tests.conftest import export_model, random_model, save_model
from tests.families import export_tiny
from tests.fuzz.target import SEEDS
from tests.svg_train.frames.openstl_equations import random_weights
from tests.svg_train.reference import svg_prime_networks
from tests.svg_train.reference.reference_files import OldTorch, options, write_checkpoint, write_parts
from tests.svg_train.srvp.published_network import PublishedSrvp, write_published
from tests.svg_train.test_data_bair import write_records


def folder(name: str) -> Path:
    """The folder of a target's seeds."""
    path = SEEDS / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_bundle_seeds(work: Path) -> None:
    """The smallest bundle, and its files as inputs."""
    model = random_model(nf=1, g_dim=2, z_dim=1, rnn_size=2, predictor_layers=1, n_past=2)
    checkpoint = save_model(folder("checkpoint") / "svg-train.pt", model)
    shutil.rmtree(SEEDS / "tiny.svgb", ignore_errors=True)
    bundle = export_model(checkpoint, SEEDS / "tiny.svgb", fused=True)
    shutil.copy(bundle / "manifest.json", folder("manifest") / "fp32.json")
    for name in ("fp32/encoder.onnx", "fp32/step.onnx", "fp32/prime.onnx", "fp32/predictor.onnx", "manifest.json"):
        content = (bundle / name).read_bytes()
        (folder("bundle-forecast") / Path(name).name).write_bytes(name.encode() + b"\n" + content)
    for name in ("skip", "prior"):
        shutil.copy(bundle / f"fp32/{name}.onnx", folder("onnx-interface") / f"{name}.onnx")
    reduced = export_model(checkpoint, work / "reduced.svgb", fp16=True, bf16=True)
    shutil.copy(reduced / "manifest.json", folder("manifest") / "reduced.json")
    with tarfile.open(folder("bundle-archive") / "tiny.svgb.tar", "w") as archive:
        for name in ("tiny.svgb/manifest.json", "tiny.svgb/fp32/step.onnx"):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = 700, 1.5  # a fraction of a second makes an entry of attributes
            archive.addfile(entry, io.BytesIO(bytes(range(70)) * 10))


def openstl_checkpoint() -> dict[str, Any]:
    """A tiny ConvLSTM as OpenSTL's Lightning writes it."""
    weights = random_weights(method="convlstm", channels=4, plane=(4, 4), hidden=(2,), k=3, norm=False)
    settings = {"method": "convlstm", "in_shape": [2, 1, 8, 8], "pre_seq_length": 2, "num_hidden": "2", "patch_size": 2}
    return {
        "pytorch-lightning_version": "2.0",
        "state_dict": {f"model.{name}": value for name, value in weights.items()},
        "hyper_parameters": settings,
    }


def with_nested_settings(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """With a list that holds itself, and one that would be endless if it were written out, among the settings."""
    itself: list[object] = []
    itself.append(itself)
    shared: list[object] = []
    for _ in range(60):
        shared = [shared, shared]
    return {**checkpoint, "hyper_parameters": {**checkpoint["hyper_parameters"], "gpus": itself, "method": shared}}


def write_reference_seeds() -> None:
    """Whole checkpoints of the reference, from three ages of torch, and a small file of each container."""
    sizes = {"nf": 1, "g_dim": 2, "z_dim": 1, "rnn_size": 2, "layers": (1, 1, 1)}
    parts = build(**sizes)
    write_checkpoint(folder("reference-zip") / "torch16.pth", parts, OldTorch(16), "zip")
    write_checkpoint(folder("reference-stream") / "torch03.pth", parts, OldTorch(3))
    write_checkpoint(folder("reference-stream") / "torch01.pth", build(prior="none", **sizes), OldTorch(1))
    spatial = svg_prime_networks.build(nf=1, g_dim=2, z_dim=1, size=2, layers=(1, 1, 1))
    opt = svg_prime_networks.options(g_dim=2, z_dim=1, M=2 / 512, K=1 / 64, predictor_rnn_layers=1)
    write_parts(folder("reference-zip") / "svg-prime.pth", spatial, opt, OldTorch(16), "zip")
    states = {name: part.state_dict() for name, part in parts.items()} | {"opt": options(parts, optimizer="adam")}
    torch.save(states, folder("reference-zip") / "states.pth")
    torch.save(openstl_checkpoint(), folder("reference-zip") / "openstl.ckpt")
    torch.save(with_nested_settings(openstl_checkpoint()), folder("reference-zip") / "openstl-nested.ckpt")
    small = {"encoder": {"w": torch.zeros(2, 3)}, "opt": {"n_past": 2}}
    torch.save(small, folder("reference-zip") / "small.pth")
    torch.save(small, folder("reference-stream") / "small.pth", _use_new_zipfile_serialization=False)
    with tarfile.open(folder("reference-tar") / "checkpoint.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        content = (folder("reference-stream") / "small.pth").read_bytes()
        entry = tarfile.TarInfo("model.pth")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))


def write_family_seeds(work: Path) -> None:
    """Checkpoints of the other families' programs with their settings, and manifests of bundles without separate graphs."""
    # 1) OpenSTL: a container with its settings, and one that needs them
    weights = random_weights("convlstm", channels=64, plane=(1, 1), hidden=(1,), k=1, norm=False)
    about = {
        "method": "convlstm", "in_shape": [2, 1, 8, 8], "pre_seq_length": 2, "aft_seq_length": 2, "total_length": 4,
        "num_hidden": "1", "filter_size": 1, "stride": 1, "patch_size": 8, "layer_norm": 0,
    }  # fmt: skip
    named = {f"model.{name}": value for name, value in weights.items()}
    lightning = {"pytorch-lightning_version": "2.0", "state_dict": named, "hyper_parameters": about}
    torch.save(lightning, folder("reference-zip") / "openstl.ckpt")
    torch.save({"epoch": 1, "state_dict": weights, "optimizer": {}, "scheduler": {}}, folder("reference-zip") / "openstl.pth")
    (folder("model-settings") / "openstl.json").write_text(json.dumps(about), encoding="utf-8")
    # 2) SRVP: weights, and settings beside them
    sizes = {"nf": 1, "nhx": 1, "ny": 1, "nz": 1, "nt_inf": 1, "nt_cond": 2, "nh_inf": 1, "nh_res": 1}
    network = PublishedSrvp(**sizes, nlayers_inf=2, nlayers_res=2)
    shutil.copy(write_published(work, network), folder("srvp-checkpoint") / "model.pt")
    shutil.copy(work / "config.json", folder("model-settings") / "srvp.json")
    # 3) one graph, and a graph for each role
    for name in ("convlstm", "srvp-skips"):
        bundle = export_tiny(name, work / f"{name}.svgb")
        shutil.copy(bundle / "manifest.json", folder("manifest") / f"{name}.json")


def write_data_seeds(work: Path) -> None:
    """One trajectory, a picture of each kind of PNG, MNIST images, a video in each container, and cache records."""
    write_records(folder("tfrecord") / "one.tfrecords", [1], frames=1)
    picture = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    Image.fromarray(picture).save(folder("bair-png") / "rgb.png")
    Image.fromarray(picture).quantize(8).save(folder("bair-png") / "palette.png")
    images = struct.pack(">4I", 2051, 1, 28, 28) + bytes(784)
    (folder("idx") / "one").write_bytes(images)
    (folder("idx") / "one.gz").write_bytes(gzip.compress(images, mtime=0))
    for suffix, codec in (("avi", "mjpeg"), ("mp4", "mjpeg"), ("mkv", "mjpeg")):
        with av.open(str(folder("video-container") / f"clip.{suffix}"), "w") as video:
            stream = video.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuvj420p"
            for shade in (0, 99):
                video.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((16, 16, 3), shade, np.uint8))))
            video.mux(stream.encode())
        shutil.copy(folder("video-container") / f"clip.{suffix}", folder("video") / f"clip.{suffix}")
    for kind, about in {
        "bair": {"version": 1, "source": "traj", "lengths": [1], "problem": None},
        "video": {"version": 1, "source": "clip", "fps": 10.0, "time_base": "stamps", "problem": None, "times_s": [0.0, 0.1]},
    }.items():
        (folder("frame-cache") / f"{kind}.json").write_bytes(kind[:1].encode() + json.dumps(about).encode())


def write_text_seeds(work: Path) -> None:
    """Recipes, ranges, metrics, addresses and an engine's record."""
    for recipe in Path("svg_train/recipes").glob("*.toml"):
        shutil.copy(recipe, folder("recipe") / recipe.name)
    shutil.copy("examples/live.toml", folder("live-config") / "live.toml")
    ranges = (
        "preface\nperson01_boxing_d1\tframes\t1-95, 96-185\nperson13_handclapping_d3\t*missing*\nperson02_x_d1 frames: 1-2,\n"
    )
    (folder("kth-ranges") / "ranges.txt").write_text(ranges, encoding="utf-8")
    metrics = '{"kind": "train", "step": 1, "loss": 0.5}\n{"kind": "eval", "step": 3, "psnr_best": 20.5}\n{"kind": "tr'
    (folder("run-metrics") / "metrics.jsonl").write_text(metrics, encoding="utf-8")
    addresses = ("rtsp://user:pass@[::1]:554/a?b=c#d", "udp://@239.0.0.1:1234", "rtsp:/host", "clip.mp4", "http://a:b#c@host/x")
    for number, address in enumerate(addresses):
        (folder("address") / f"{number}.txt").write_text(address, encoding="utf-8")
    key = EngineKey(
        onnx_sha256="0" * 64, platform="linux-x86_64", nvidia_library="tensorrt-rtx", version="1.7", gpu=None,
        compute_capabilities=("sm89",), precision="fp32", max_batch=8, workspace_gib=None, flags=(),
    )  # fmt: skip
    write_engine(work / "step.plan", key, b"an engine")
    shutil.copy(record_of(work / "step.plan"), folder("engine-record") / "bundle.json")
    (folder("engine-cache") / "blob").write_bytes(bytes(40))
    way = Way("openvino", "CPU:f32", "fp32", fused=False)
    rows = [Row(way, seconds=[0.02]), Row(Way("cuda", None, "fp16", fused=True), reason="finds no NVIDIA GPU")]
    decision = Decision(way, [row.as_json() for row in rows], busy=False, measured_s=1.8e9).as_json()
    made_for = {"graphs": ["0" * 64], "samples": 8, "horizon": 10, "precision": None}
    for name, about in {"bench": {"made_for": made_for, "decision": decision}, "cache": decision}.items():
        (folder("decision") / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        write_bundle_seeds(Path(temporary))
        write_reference_seeds()
        write_family_seeds(Path(temporary))
        write_data_seeds(Path(temporary))
        write_text_seeds(Path(temporary))
