"""The connection to a network camera, and the help message if it fails."""

from __future__ import annotations

from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.addresses import HIDDEN_HOST, has_password, stream_name
from svg_runtime.live.sources.opening import DeviceOpener
from svg_runtime.live.sources.stream_capture import StreamCapture, StreamForm, open_in_any_form
from svg_runtime.live.stop import StopRequest

CHECK_ADVICE = "check that the camera is on and reachable from this machine"
_REFUSALS = ("401", "403")  # of HTTP and RTSP: who asks is not known, or may not
_ENCODED = "%25 for %, %40 for @, %23 for #, %2F for /, %3F for ? and %3A for : in the password"


def explain_missing_stream(url: str, reason: str) -> str:
    """Write the message for live video that is not available."""
    advice = CHECK_ADVICE
    is_clear = not stream_name(url).endswith(HIDDEN_HOST)
    refused = any(code in reason for code in _REFUSALS)
    if refused and is_clear and has_password(url):
        advice = (
            "the camera refused the user name and password in the address: check them, and what this user may see,\n"
            f"  and give {_ENCODED}"
        )
    elif refused or not is_clear:
        advice = f"include the user name and password: {url.partition(':')[0]}://USER:PASSWORD@HOST/PATH,\n  with {_ENCODED}"
    return (
        f"{stream_name(url)} delivers no frames: {reason}\n"
        f"  {advice}\n"
        "  the camera's manual gives the address with port and path; test it with ffplay or VLC"
    )


def open_stream(url: str, stop: StopRequest, events: EventLog, form: StreamForm) -> StreamCapture:
    """Connect to live video. Ctrl-C does not wait for a camera that does not respond.

    Args:
        url: address of the camera.
        stop: ends the wait.
        events: event log for slow decoding and damaged pictures.
        form: of earlier connections to this camera; noted here.

    Raises:
        NoPictureError: see `StreamCapture`.
        KeyboardInterrupt: a stop was requested meanwhile.
    """
    name = stream_name(url)
    too_slow = (
        f"{name} sends frames faster than this machine can decode them: some are skipped to keep up; "
        "use the camera's lower-resolution stream"
    )

    def report_damage(reason: str) -> None:
        left_out = "what is damaged, and what depends on it, is left out"
        events.once("damaged_stream", f"{name} sends damaged pictures ({reason}): {left_out}")

    def open_as(bare_jpegs: bool) -> StreamCapture:
        return StreamCapture(url, lambda: events.once("slow_decoding", too_slow), report_damage, bare_jpegs)

    return DeviceOpener(lambda: open_in_any_form(open_as, form, url), name=name, stop=stop)()
