"""A forecast of 10 steps on a GPU with 1, 8 and 64 samples, against PyTorch, torch.compile and plain ONNX Runtime there."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from svg_runtime.bundle.reader import Bundle

_LOG = logging.getLogger("svg_benchmarks")
BUNDLES = ("random:nf64-fp16",)

SAMPLES, HORIZON = (1, 8, 64), 10
GOALS_ARE_FOR = ("dcgan", 64, 64, 8)  # backbone, nf, pixels, samples


@pytest.mark.gpu
@pytest.mark.usefixtures("peers_can_run")
@pytest.mark.parametrize("samples", SAMPLES)
def test_peers_gpu(
    benchmark: Any, bundle: Bundle, samples: int, record_metric: Any, record_table: Any,
    pytestconfig: pytest.Config, tmp_path: Path,
) -> None:  # fmt: skip
    from gpu_report import case_rows, gpu_metrics, gpu_table
    from peers import Peer

    what = f"{bundle.path.stem}, {samples} x {HORIZON}"
    _LOG.info("peers of %s", what)
    rounds = pytestconfig.getoption("rounds") if benchmark.enabled else 1
    benchmark.group = "a case: all peers opened, timed and traced"
    names = pytestconfig.getoption("peer") or []
    found = benchmark.pedantic(
        lambda: run_case(bundle=bundle.path, samples=samples, rounds=rounds, folder=tmp_path, names=names)
    )
    peers = [Peer.from_json(row) for row in found["peers"]]
    record_table(f"{what}: forecast, context read, on {found['gpu']['name']}", gpu_table(case_rows(peers)))
    benchmark.extra_info.update(bundle=bundle.path.name, bundle_id=bundle.manifest.bundle_id, gpu_case=found)
    settings = bundle.manifest.model.settings
    if (settings.get("backbone"), settings.get("nf"), bundle.manifest.frame.height, samples) == GOALS_ARE_FOR:
        for metric in gpu_metrics(peers, what):
            record_metric(metric)


def run_case(
    bundle: Path, samples: int, rounds: int | None, folder: Path, names: Sequence[str] = ()
) -> dict[str, Any]:  # fmt: skip
    """Run gpu_case.py and return its JSON. The lines that it prints are logged; its stderr goes to a file in `folder`."""
    result, messages = folder / "case.json", folder / "messages.txt"
    command = [sys.executable, str(Path(__file__).with_name("gpu_case.py")), str(bundle), str(samples), str(HORIZON)]
    command += ["--json", str(result), *(["--rounds", str(rounds)] if rounds else [])]
    command += [option for name in names for option in ("--peer", name)]
    with (
        messages.open("w", encoding="utf-8") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            _LOG.info("%s", line.rstrip())
    if process.returncode:
        last = "".join(deque(messages.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True), maxlen=20))
        pytest.fail(f"gpu_case.py failed with exit code {process.returncode}:\n{last}", pytrace=False)
    case: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return case
