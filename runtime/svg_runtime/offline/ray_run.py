"""`svg-forecast --ray`: the same parts, made by workers of Ray Data on one machine or on a cluster.

A part has the videos of one block, and a name that follows from them: when Ray repeats a block because a machine was lost, the
same part comes of it. The folder of results must be the same folder on all machines.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console

from svg_common.errors import ExitCode, SvgError
from svg_common.progress import NullListener, ProgressDisplay
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.live.stop import StopRequest
from svg_runtime.offline.dataset import Dataset
from svg_runtime.offline.listing import Video
from svg_runtime.offline.options import ForecastOptions
from svg_runtime.offline.ray_cluster import check_room, connect_to_ray
from svg_runtime.offline.tally import Tally
from svg_runtime.offline.worker import Worker

_BLOCKS_PER_WORKER = 4  # so that workers end at about the same time
_MOST_VIDEOS = 64  # of a block, which is lost as a whole with its worker

Row = dict[str, str]  # of Ray's data sets


class RayWorker:
    """An actor that has the model open, or cannot open it.

    Its errors are part of what it returns: of one that is raised, Ray gives only the text to the process that waits.
    """

    def __init__(self, options: ForecastOptions, dataset: Dataset, model: Path) -> None:
        self._options = options
        self._dataset = dataset
        self._away: Counter[str] = Counter()  # of all its blocks, none of which waits again for a store that is away
        self._forecaster: Forecaster | SvgError
        try:
            self._forecaster = options.open_alike(dataset, model, NullListener())
        except SvgError as error:
            self._forecaster = error

    def __call__(self, row: Row) -> Row:
        """Publish the part of a block of videos, and return what became of them, both as JSON."""
        videos = [Video(**video) for video in json.loads(row["videos"])]
        tally = Tally()
        failure = self._run_part(videos, tally)
        work = sum(video.work for video in videos)
        report = {
            **vars(tally), "failure": None if failure is None else _failure_report(failure), "work": work,
            "is_open": not isinstance(self._forecaster, SvgError),
        }  # fmt: skip
        return {"report": json.dumps(report)}

    def _run_part(self, videos: list[Video], tally: Tally) -> SvgError | None:
        """Count in `tally` what became of videos; returns what ended it before its time."""
        if isinstance(self._forecaster, SvgError):
            return self._forecaster
        worker = Worker(
            options=self._options, forecaster=self._forecaster, dataset=self._dataset, stop=StopRequest(), tally=tally,
            away=self._away,
        )  # fmt: skip
        name = hashlib.sha256("".join(video.id for video in videos).encode()).hexdigest()[:16]
        return worker.run_part(videos, f"b{name}")


def forecast_with_ray(
    options: ForecastOptions, dataset: Dataset, model: Path, pending: list[Video], tally: Tally, console: Console
) -> SvgError | None:
    """Forecast `pending`. Ray connects to the cluster of $RAY_ADDRESS, or starts on this machine.

    Returns:
        What ended a worker before its time; what was finished is published.

    Raises:
        SvgError: as `connect_to_ray` and `check_room`.
    """
    connect_to_ray()
    import ray
    import ray.data

    # Workers have other working folders.
    dataset = dataset.at(dataset.folder.resolve())
    model = model.resolve()

    workers = min(options.ray_workers or 1, len(pending))
    cpus = options.threads or 1
    rows = _rows(pending, workers)
    failure: dict[str, Any] | None = None
    try:
        check_room(cpus, options.ray_gpus)
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # what fails, the reports tell
        reports = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            RayWorker,
            fn_constructor_args=(options, dataset, model),
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=cpus,
            num_gpus=options.ray_gpus or None,
        )
        all_work = max(1, sum(video.work for video in pending))
        done_work = 0
        with ProgressDisplay(console) as display:
            display.progress("forecasting", 0.0)
            for row in reports.iter_rows():
                report = json.loads(row["report"])
                failure = failure or report["failure"]
                if not report["is_open"]:
                    break  # it would take the blocks of all others, and fail at once
                done_work += report.pop("work")
                tally.add(report)
                display.progress("forecasting", done_work / all_work, f"{tally.frames} frames so far")
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raised_by_worker = isinstance(error, ray.exceptions.RayTaskError) or getattr(error, "actor_init_failed", False)
        advice = "" if raised_by_worker else "; run the same command again"  # another machine may take its place
        return SvgError(f"Ray ended the run: {cause}\n  what was finished is published{advice}")
    finally:
        ray.shutdown()
    return None if failure is None else _reported_failure(failure)


def _rows(pending: list[Video], workers: int) -> list[Row]:
    """A row per block of videos: workers with GPUs get blocks of several rows in parts, of a size that has to be said."""
    size = min(_MOST_VIDEOS, math.ceil(len(pending) / (workers * _BLOCKS_PER_WORKER)))
    blocks = [pending[start : start + size] for start in range(0, len(pending), size)]
    return [{"videos": json.dumps([vars(video) for video in block])} for block in blocks]


def _failure_report(error: SvgError) -> dict[str, Any]:
    return {"message": f"on {platform.node()}: {error}", "exit_code": int(error.exit_code)}


def _reported_failure(report: dict[str, Any]) -> SvgError:
    """An error that ends the command as the worker's own would."""
    error = SvgError(report["message"])
    error.exit_code = ExitCode(report["exit_code"])
    return error
