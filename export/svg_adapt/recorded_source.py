"""What a recording is of: a source by a name that may be shown, a salted hash of what it leaves out, and the view of it."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

from svg_runtime.live.roi import Roi
from svg_runtime.live.sources import SourceOptions
from svg_runtime.live.sources.addresses import HIDDEN_HOST, stream_name

_ITERATIONS = 100_000  # a path or a query can hold a password: guessing it from the hash must cost something
_LOGINS = re.compile(r"\buser-(?:id|pw)=(?:\"[^\"]*\"|\S+)|(?<=://)[^/@\s]*@")  # in a pipeline of GStreamer


@dataclass(frozen=True)
class RecordedSource:
    """A source.

    Attributes:
        name: without passwords, for messages.
        hidden: what tells it apart from others of that name, without user and password, which may change; empty: the name does.
        view: the options with which svg-live opens it and looks at the same part of it; empty: none.
    """

    name: str
    hidden: str = ""
    view: str = ""

    @classmethod
    def of(cls, options: SourceOptions, roi: Roi | None = None) -> RecordedSource:
        """The source in `options`, of which `roi` is recorded; None: all of it."""
        view, camera = view_options(options, roi), options.local_camera
        if camera is not None:  # of a pipeline, the name has the first element alone
            return cls(camera.name, _LOGINS.sub("", str(options.source)) if camera.name.endswith(" ...") else "", view)
        if options.path is not None:
            return cls(str(options.path.resolve()), view=view)
        url = str(options.source)
        return cls(stream_name(url), "" if options.is_synthetic else _without_login(url), view)

    def salted_hash(self) -> str | None:
        """The hash to store of what is hidden; None if nothing is."""
        return self._hash(secrets.token_hex(16)) if self.hidden else None

    def has_hash(self, stored: str) -> bool:
        """Whether a stored hash is that of what is hidden here."""
        return stored == self._hash(stored.partition(":")[0])

    def _hash(self, salt: str) -> str:
        digest = hashlib.pbkdf2_hmac("sha256", self.hidden.encode("utf-8", "surrogateescape"), salt.encode(), _ITERATIONS)
        return f"{salt}:{digest.hex()}"


def view_options(options: SourceOptions, roi: Roi | None) -> str:
    """The options with which svg-live opens and turns a source, and looks at a part of it, as they are typed."""
    size_wh, fps, turn = options.settings.size_wh, options.settings.fps, options.turn
    given = {
        "--source-fps": options.source_fps and f"{options.source_fps:g}",
        "--camera-size": size_wh and "x".join(map(str, size_wh)),
        "--camera-fps": fps and f"{fps:g}",
        "--rotate": turn.rotate,
        "--flip": turn.flip,
        "--roi": roi,
    }
    return " ".join(f"{name} {value}" for name, value in given.items() if value)


def _without_login(url: str) -> str:
    """An address without user and password; whole, if they cannot be told apart from the host."""
    name = stream_name(url)
    if name.endswith(f"://{HIDDEN_HOST}"):
        return url
    after_scheme = url.partition("://")[2]
    authority = re.split("[/?#]", after_scheme)[0]
    return name + after_scheme[len(authority) :]
