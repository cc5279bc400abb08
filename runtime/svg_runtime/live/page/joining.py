"""How a run and its page come together: the page answers before the model is open, and the cameras join when they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from svg_runtime.live.camera_run import CameraRun
from svg_runtime.live.forecasts import CameraForecasts
from svg_runtime.live.live_options import LiveOptions
from svg_runtime.live.page.camera import CameraAbout
from svg_runtime.live.page.controls import Fixed, Settings
from svg_runtime.live.page.held_summary import HeldSummary
from svg_runtime.live.page.options import PageOptions
from svg_runtime.live.page.pictures import start_overlay
from svg_runtime.live.run_stats import RunStats

if TYPE_CHECKING:
    from svg_runtime.live.page.live_page import LivePage


def open_page(
    options: PageOptions, inform: Callable[[str], None], warn: Callable[[str], None], resources: ExitStack
) -> LivePage:
    """Take the address, tell the link and start to answer; `resources` closes the page. Errors: as for `LivePage`."""
    from svg_runtime.live.page.live_page import LivePage  # the web server

    page = LivePage.open(options, warn)
    inform(f"the page: {page.access.link()}")
    resources.callback(page.close)
    page.start()
    return page


def join_page(
    page: LivePage, options: Sequence[LiveOptions], cameras: Sequence[CameraRun], forecasts: CameraForecasts, run: RunStats
) -> None:
    """Add all cameras, with their own options."""
    joining = []
    for own, camera in zip(options, cameras, strict=True):
        settings = Settings(
            samples=camera.caption.samples, horizon=camera.caption.horizon, overlay=start_overlay(own.overlays),
            roi=None if own.roi is None else str(own.roi),
            threshold=own.alarms.trigger.threshold if own.alarms.enabled else None,
        )  # fmt: skip
        about = CameraAbout(
            name=camera.caption.source, caption=camera.caption, clips=own.alarms.folder,
            bundle_id=forecasts.manifest.bundle_id, fixed=_fixed(own, forecasts, len(cameras)),
        )  # fmt: skip
        joining.append((about, settings, camera.stats))
    for camera, joined in zip(cameras, page.add_cameras(joining), strict=True):
        camera.page = joined
    if len(cameras) > 1:
        run.events.listen(page.on_event)
    page.summary = HeldSummary(run.summary)


def _fixed(options: LiveOptions, forecasts: CameraForecasts, cameras: int) -> Fixed:
    """All cameras have the same samples and steps, and are forecast together."""
    adaptive = "--adaptive chooses it" if options.adaptive else None
    one_future = "this model has only one future" if forecasts.manifest.model.z_dim == 0 else None
    frame = forecasts.manifest.frame
    return Fixed(
        samples=adaptive or one_future, horizon=adaptive, frame_bytes=4 * frame.height * frame.width * frame.channels * cameras
    )  # fmt: skip
