"""Measures the forecast of one bundle and number of samples on the GPU of this process, and writes what it found as JSON.

Each case has its own process: an engine that crashes only ends its own case, memory is free afterwards, and the profiler, which
slows down whatever runs after its first use, has nothing after it.

python benchmarks/gpu_case.py ckpt.svgb 8 10 --json case.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from gpu_trace import trace_forecast
from matmul_peak import DTYPES, copy_peak, matmul_peak
from open_gpu_peers import ALL, open_gpu_peers
from peers import Peer, time_interleaved, warm_up
from roofline import Roofline

from svg_common.progress import NullListener
from svg_runtime.bench.operations import count_operations, forecast_bytes, forecast_operations
from svg_runtime.bundle.contract import FUSED
from svg_runtime.bundle.manifest import Manifest, Precision
from svg_runtime.bundle.reader import Bundle
from svg_runtime.machine.telemetry import telemetry

_LOG = logging.getLogger("svg_benchmarks")
MIN_ROUNDS, MAX_ROUNDS, TIME_S = 200, 2000, 60.0  # with fewer, p99 would be the slowest one
WARM_UP_ROUNDS = 5  # engines choose kernels, allocate and capture graphs in the first ones


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("samples", type=int)
    parser.add_argument("horizon", type=int)
    parser.add_argument("--rounds", type=int, help="default: as many as fit into a minute, within bounds")
    parser.add_argument(
        "--peer", action="append", choices=ALL, metavar="NAME", help=f"only these, besides {ALL[0]}: {'; '.join(ALL)}"
    )
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    _LOG.addHandler(logging.StreamHandler(sys.stdout))
    _LOG.setLevel(logging.INFO)
    found = measure_case(
        bundle=bundle, samples=options.samples, horizon=options.horizon, rounds=options.rounds, names=options.peer or ALL
    )  # fmt: skip
    options.json.write_text(json.dumps(found), encoding="utf-8")


def measure_case(
    bundle: Bundle, samples: int, horizon: int, rounds: int | None = None, names: Sequence[str] = ALL, device: str = "cuda"
) -> dict[str, Any]:  # fmt: skip
    """Open all peers, time them interleaved, and trace a forecast of each.

    Args:
        bundle: the model.
        samples: futures per forecast.
        horizon: frames per future.
        rounds: default: as many as fit into a minute, within bounds.
        names: of the peers.
        device: see `open_gpu_peers`.

    Returns:
        JSON values: peers as rows, the GPU, its ceilings, its clocks and temperatures before and after.
    """
    on_gpu = device == "cuda"
    if on_gpu:
        torch.backends.cudnn.benchmark = True  # measure and use the fastest convolution, for a fair comparison
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32, for all peers
    before, ceilings = telemetry(), _ceilings(device)
    with ExitStack() as stack:
        peers = open_gpu_peers(bundle=bundle, samples=samples, horizon=horizon, stack=stack, names=names, device=device)
        bounds = (MIN_ROUNDS, MAX_ROUNDS, TIME_S) if rounds is None else (rounds, rounds, TIME_S)
        rounds = warm_up(peers, *bounds, rounds=WARM_UP_ROUNDS, pause_s=0.0)
        _LOG.info("%d rounds of %d peers", rounds, sum(peer.forecast is not None for peer in peers))
        with torch.compiler.set_stance("fail_on_recompile"):
            time_interleaved(peers, rounds, pause_s=0.0)
        after = telemetry()
        if on_gpu:
            _trace(peers)
    _compare_with_ceilings(peers=peers, bundle=bundle, samples=samples, horizon=horizon, ceilings=ceilings)
    return {
        "samples": samples, "horizon": horizon, "gpu": _gpu() if on_gpu else None, "ceilings": ceilings,
        "telemetry": {"before": before, "after": after}, "peers": [peer.as_json() for peer in peers],
    }  # fmt: skip


def cuda_absence() -> str | None:
    """Why nothing can be measured on a GPU here; None if it can."""
    if torch.version.cuda is None:
        return f"needs PyTorch with CUDA; this one is {torch.__version__}"
    return None if torch.cuda.is_available() else "needs an NVIDIA GPU; PyTorch finds none"


def _trace(peers: list[Peer]) -> None:
    """A failure of the profiler must not discard the measured times."""
    for peer in peers:
        if peer.forecast is not None:
            try:
                peer.trace = trace_forecast(peer.forecast).as_json()
            except (RuntimeError, ValueError) as error:
                peer.trace = {"reason": str(error)}


def _ceilings(device: str) -> dict[str, Any]:
    rates = {precision: matmul_peak(precision, device) for precision in DTYPES}
    return {"matmul_operations_per_s": rates, "copy_bytes_per_s": copy_peak(device)}


def _compare_with_ceilings(peers: list[Peer], bundle: Bundle, samples: int, horizon: int, ceilings: dict[str, Any]) -> None:
    operations = forecast_operations(_counts(bundle), bundle.manifest, samples, horizon)
    for peer in peers:
        if peer.forecast is not None:
            moved = _moved_bytes(bundle.manifest, peer.precision, samples, horizon)
            peak = ceilings["matmul_operations_per_s"][peer.precision]
            roofline = Roofline(operations, moved, peak, ceilings["copy_bytes_per_s"])
            peer.roofline = {**roofline.as_json(), "share": roofline.share(peer.device_median_s)}


def _counts(bundle: Bundle) -> dict[str, int]:
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="svg-counts-") as folder:
        os.chdir(folder)  # the profiler writes its files there
        try:
            return count_operations(NullListener(), "operations", str(bundle.path.absolute()), "fp32")
        finally:
            os.chdir(here)


def _moved_bytes(manifest: Manifest, precision: str, samples: int, horizon: int) -> int:
    """Values in bf16 are as large as in fp16."""
    variant: Precision = "fp16" if precision != "fp32" and "fp16" in manifest.variants else "fp32"
    fused = set(FUSED) <= set(manifest.variants[variant].graphs)
    return forecast_bytes(manifest=manifest, precision=variant, fused=fused, samples=samples, horizon=horizon)


def _gpu() -> dict[str, Any]:
    about = torch.cuda.get_device_properties(0)
    return {
        "name": about.name, "compute_capability": f"{about.major}.{about.minor}", "cuda": torch.version.cuda,
        "multiprocessors": about.multi_processor_count, "memory_bytes": about.total_memory,
        "cudnn": torch.backends.cudnn.version(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
