"""`svg-live` for a long time on a camera that breaks again and again:
`python -m benchmarks.soak [--minutes 30] [--every 60] [--away 2] [--json FILE] [-- OPTIONS OF SVG-LIVE]`

A camera on the loopback (MJPEG, 30 pictures a second) is switched off every minute for two seconds. Meanwhile the resident
memory, threads and open files of svg-live are read from /proc every five seconds. Prints, and fails with exit code 1 where it
does not hold:

    memory        growth from the end of the first two minutes to the end; medians of a minute; at most 5 MB
    threads, open files   no more at the end than after two minutes
    faults        every switch-off was counted as camera_lost, and every return as camera_back
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from svg_common.files import write_json
from svg_runtime.machine.hardware import hardware, machine_today
from tests.svg_runtime.live.network_cameras import Mjpeg, free_port, switched_on

_SETTLED_S = 120.0
_MINUTE_S = 60.0
_SAMPLE_S = 5.0
_MOST_GROWTH_MB = 5.0
_CAMERA_FPS = 30


@dataclass(frozen=True)
class Sample:
    """What /proc says of the process: seconds since the start, MB of resident memory, threads, open files."""

    time_s: float
    rss_mb: float
    threads: int
    files: int


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=60.0, help="seconds from one switch-off to the next")
    parser.add_argument("--away", type=float, default=2.0, help="seconds for which the camera is off")
    parser.add_argument("--json", type=Path, help="write samples and statistics to this file")
    parser.add_argument("live", nargs="*", help="further options of svg-live, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples, breaks, stats = soak(options, Path(folder))
    problems = list(faults(samples, breaks, stats))
    result = {
        "hardware": machine_today(),
        "breaks": breaks,
        "samples": [asdict(sample) for sample in samples],
        "problems": problems,
        "statistics": stats,
    }
    print("\n".join(report(samples, breaks, stats)))
    if options.json is not None:
        write_json(options.json, result)
    if problems:
        sys.exit("\n".join(problems))


def soak(options: argparse.Namespace, folder: Path) -> tuple[list[Sample], int, dict[str, Any]]:
    """Run svg-live beside a camera that breaks; return samples, the number of breaks, and its statistics."""
    port, stats = free_port(), folder / "stats.json"
    command = [
        *(sys.executable, "-c", "from svg_runtime.live.cli import main; main()", "--headless", "--json", str(stats)),
        *("--source", f"http://127.0.0.1:{port}/", "--model", "camera", "--reconnect", "60", *options.live),
    ]
    samples: list[Sample] = []
    with contextlib.ExitStack() as program, contextlib.ExitStack() as camera:
        camera.enter_context(switched_on(Mjpeg, port=port, fps=_CAMERA_FPS))
        live = subprocess.Popen(command)
        program.callback(live.kill)  # does nothing once it has ended
        start, breaks = time.monotonic(), 0
        end = start + 60 * options.minutes
        while (now := time.monotonic()) < end and live.poll() is None:
            samples.append(sample(live.pid, now - start))
            time.sleep(_SAMPLE_S)
            # the last break leaves time for the return to be seen
            if time.monotonic() - start > (breaks + 1) * options.every and end - time.monotonic() > options.every / 2:
                camera.close()
                time.sleep(options.away)
                camera.enter_context(switched_on(Mjpeg, port=port, fps=_CAMERA_FPS))
                breaks += 1
        live.send_signal(signal.SIGTERM)
        if live.wait(timeout=60) != 0:
            sys.exit(f"svg-live ended with exit code {live.returncode}")
    return samples, breaks, json.loads(stats.read_text())


def sample(pid: int, time_s: float) -> Sample:
    """Read /proc of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Sample(
        time_s=round(time_s, 1),
        rss_mb=round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 2),
        threads=len(os.listdir(f"/proc/{pid}/task")),
        files=len(os.listdir(f"/proc/{pid}/fd")),
    )


def settled_and_last(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Return the samples of the minute after the first two, and those of the last minute."""
    end_s = samples[-1].time_s
    settled = [each for each in samples if _SETTLED_S <= each.time_s < _SETTLED_S + _MINUTE_S]
    return settled, [each for each in samples if each.time_s > end_s - _MINUTE_S]


def growth_mb(samples: Sequence[Sample]) -> float:
    """Return how much the resident memory grew after the first two minutes."""
    settled, last = settled_and_last(samples)
    return statistics.median(each.rss_mb for each in last) - statistics.median(each.rss_mb for each in settled)


def faults(samples: Sequence[Sample], breaks: int, stats: dict[str, Any]) -> list[str]:
    """Return what does not hold."""
    if samples[-1].time_s < _SETTLED_S + 2 * _MINUTE_S:
        return ["too short to be judged: four minutes at least"]
    settled, last = settled_and_last(samples)
    problems = []
    if growth_mb(samples) > _MOST_GROWTH_MB:
        problems.append(f"memory grew by {growth_mb(samples):.1f} MB, more than {_MOST_GROWTH_MB:g}")
    for name in ("threads", "files"):
        before, after = (max(getattr(each, name) for each in part) for part in (settled, last))
        if after > before:
            problems.append(f"{name}: {after} at the end, {before} after two minutes")
    counts = stats["events"]["counts"]
    return problems + [
        f"{kind}: {counts.get(kind, 0)}, but the camera was switched off {breaks} times"
        for kind in ("camera_lost", "camera_back")
        if counts.get(kind, 0) != breaks
    ]


def report(samples: Sequence[Sample], breaks: int, stats: dict[str, Any]) -> list[str]:
    """Return the report: a line per two minutes, then the counts."""
    machine, frames = hardware(), stats["frames"]
    every = max(1, len(samples) // 15)
    rows = [
        f"{each.time_s / 60:7.1f} {each.rss_mb:9.1f} {each.threads:8} {each.files:6}"
        for each in (*samples[::every], samples[-1])
    ]
    return [
        f"{machine['cpu']}, {machine['cores_usable']} cores; {stats['backend']}",
        f"{'minutes':>7} {'MB':>9} {'threads':>8} {'files':>6}",
        *rows,
        f"camera switched off {breaks} times; events: {stats['events']['counts']}",
        f"frames: {frames['seen']} seen, {frames['forecast']} forecast, {frames['dropped']} dropped",
    ]


if __name__ == "__main__":
    main()
