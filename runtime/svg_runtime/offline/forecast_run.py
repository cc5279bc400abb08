"""A run of `svg-forecast`: lists videos, leaves out what is done, forecasts the rest, and says what became of it."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from svg_common.errors import OutputError, SvgError, UsageError, first_line
from svg_common.files import resolved, write_json
from svg_common.outputs import check_outputs
from svg_common.progress import ProgressDisplay
from svg_common.quantities import count_text, is_or_are, size_text
from svg_runtime.bundle.manifest import Manifest
from svg_runtime.bundle.reader import EMBEDDED_MODEL, KNOWS_DIGITS_ONLY, Bundle, model_name
from svg_runtime.live.stop import StopRequest
from svg_runtime.offline.addresses import shortened, shown
from svg_runtime.offline.dataset import SETTINGS, is_own_name, open_dataset, own_paths
from svg_runtime.offline.listing import Listing, list_videos
from svg_runtime.offline.options import ForecastOptions, kept_shapes
from svg_runtime.offline.tally import STATUSES, Tally
from svg_runtime.offline.worker import Worker

_SHOWN = 20  # reasons on the screen
_LONGEST_NAME = 300  # characters of what cannot be reached: a line of a list may be anything


def run_forecast(options: ForecastOptions, console: Console) -> Tally:
    """Forecast the videos of one shard.

    Raises:
        SvgError: something is missing or invalid, before anything starts; results cannot be written, a store is away, the
            engine failed, or, at the end, videos could not be read. What was published before is complete.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP, after publishing what was finished.
    """
    say = partial(console.print, markup=False, emoji=False)
    start = time.monotonic()
    with StopRequest() as stop:
        model = options.find_model()
        manifest = Bundle.open(model).manifest
        if options.model is None:
            say(f"svg-forecast: no --model: using {model_name(model)}")
        if model == EMBEDDED_MODEL:
            say(f"svg-forecast: {KNOWS_DIGITS_ONLY}")
        listing = list_videos(options.sources)
        _check_outputs(options, model, listing)
        mine = [video for video in listing.videos if options.shard.has(video.id)]
        missing = listing.missing if options.shard.number == 1 else {}  # what has no content has no id, and belongs to no shard
        tally = Tally(listed=len(mine) + len(missing))
        with open_dataset(options.out, options.settings(manifest, model.name), options.shard) as dataset:
            engine = dataset.engine()
            if engine is not None:
                engine.check_backend(options.backend)
            done = dataset.done()
            pending = [video for video in mine if video.id not in done]
            for video in mine:
                if video.id in done:
                    tally.count_before(video.name, done[video.id])
            for entry, reason in missing.items():
                tally.unreachable(shortened(shown(entry), _LONGEST_NAME), reason)
            share = (
                ""
                if options.shard.count == 1
                else f", {tally.listed} of them in shard {options.shard.number}/{options.shard.count}"
            )
            away = f", {len(missing)} cannot be reached" if missing else ""
            listed = count_text(len(listing.videos) + len(listing.missing), "video")
            say(f"svg-forecast: {listed}{share}, {tally.done_before} done before, {len(pending)} to do{away}")
            _say_size(options, manifest, say)
            failure: SvgError | None = None
            about: dict[str, Any] = {"model": model_name(model), "bundle_id": manifest.bundle_id}
            if pending and options.ray_workers is not None:
                from svg_runtime.offline.ray_run import forecast_with_ray

                failure = forecast_with_ray(
                    options=options, dataset=dataset, model=model, pending=pending, tally=tally, console=console
                )
            elif pending:
                with ProgressDisplay(console) as display, options.open_alike(dataset, model, display) as forecaster:
                    say(f"svg-forecast: {model_name(model)}: {forecaster.description}")
                    about["backend"] = forecaster.description
                    worker = Worker(
                        options=options, forecaster=forecaster, dataset=dataset, stop=stop, tally=tally, display=display
                    )
                    stop.start_graceful_stop()
                    failure = worker.run(pending)
        _finish(options=options, about=about, tally=tally, duration_s=time.monotonic() - start, say=say)
        if failure is not None:
            raise failure
        if stop:
            raise KeyboardInterrupt
    if tally.not_ok:
        raise SvgError(
            f"{tally.not_ok} of {count_text(tally.listed, 'video')} {is_or_are(tally.not_ok)} not forecast completely\n"
            f"  why is said above{_more_about(options, tally)}"
        )
    return tally


def _check_outputs(options: ForecastOptions, model: Path, listing: Listing) -> None:
    """Refuse to overwrite a video, a list or results that are done, and to begin results among the videos."""
    videos = listing.local_videos
    check_outputs(
        {"--json": options.json},
        {"--out": options.out},
        needed=[model, *listing.local_lists, *videos, *own_paths(options.out)],
    )
    if options.json is not None and is_own_name(options.out, options.json):
        raise UsageError(
            f"--json '{options.json}' has a name that results in '{options.out}' may get\n"
            f"  choose another file, such as {options.out / 'summary.json'}"
        )
    if resolved(options.out) in {video.parent for video in videos} and not (options.out / SETTINGS).exists():
        raise UsageError(f"--out '{options.out}' holds some of the videos\n  expected a folder of its own, such as forecasts")


def _more_about(options: ForecastOptions, tally: Tally) -> str:
    """Where else the reasons are, and what becomes of videos that could not be reached."""
    unreachable = tally.status["unreachable"]
    table = "" if tally.not_ok == unreachable else f", and in the table of videos in '{options.out}'"
    again = "; those that could not be reached are tried again by the same command" if unreachable else ""
    return table + again


def _say_size(options: ForecastOptions, manifest: Manifest, say: Any) -> None:
    """Say how large the forecasts will be: a terabyte is easily asked for."""
    if options.keep is None:
        return
    shapes = kept_shapes(options.keep, manifest, options.samples_of(manifest), options.horizon)
    forecast_bytes = sum(2 * math.prod(shape) for shape in shapes.values())
    interval_s = manifest.generation.frame_interval_s or 0.1
    say(f"svg-forecast: --keep {options.keep}: about {size_text(forecast_bytes * 60 / interval_s)} per minute of video")


def _finish(options: ForecastOptions, about: dict[str, Any], tally: Tally, duration_s: float, say: Any) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in sorted(tally.status.items())) or "no videos"
    did = f"{count_text(tally.frames, 'frame')} and {count_text(tally.alarms, 'alarm')} in this run, {duration_s:.0f} s"
    say(f"svg-forecast: {counts}; {did} -> {options.out}")
    if tally.misfits:
        say(f"svg-forecast: {count_text(tally.misfits, 'video')} that the model does not fit: see the events misfit")
    reasons = tally.reasons
    printed = list(reasons.items())[-_SHOWN:]  # those of this run come after those of earlier ones
    for name, reason in printed:
        say(f"svg-forecast: {name}: {first_line(reason)}")
    if len(printed) < len(reasons):
        say(f"svg-forecast: and {len(reasons) - len(printed)} more, which --json FILE has too")
    if options.json is None:
        return
    summary = {
        **about,
        "out": str(options.out),
        "shard": f"{options.shard.number}/{options.shard.count}",
        "videos": {
            "listed": tally.listed,
            "done_before": tally.done_before,
            **{status: tally.status[status] for status in STATUSES},
        },
        "frames": tally.frames,
        "alarms": tally.alarms,
        "misfits": tally.misfits,
        "duration_s": round(duration_s, 3),
        "problems": reasons,
    }
    try:
        write_json(options.json, summary)
    except OSError as error:
        raise OutputError(options.json, error) from error
