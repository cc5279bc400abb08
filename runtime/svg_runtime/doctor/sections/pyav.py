"""PyAV and the FFmpeg in it, which read and write video."""

from __future__ import annotations

from svg_runtime.doctor.finding import Finding


def check() -> list[Finding]:
    """Load them."""
    import av
    from av import library_versions

    release = getattr(av, "ffmpeg_version_info", "unknown version")
    codecs, formats = (_dotted(library_versions[name]) for name in ("libavcodec", "libavformat"))
    return [Finding("FFmpeg in PyAV", "ok", f"{release} (libavcodec {codecs}, libavformat {formats})")]


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
