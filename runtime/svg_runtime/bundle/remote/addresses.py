"""Addresses of models that lie elsewhere: hf://user/name@revision, and https://host/name.svgb.tar#sha256=HASH."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import SplitResult, quote, unquote, urlsplit

from svg_common.errors import UsageError
from svg_common.printable import console_text

FORMS = "hf://user/name, hf://user/name@revision, or https://host/name.svgb.tar#sha256=HASH"
DEFAULT_REVISION = "main"
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(.*)", re.DOTALL)  # a drive such as C:/ has one letter
_REPO_PART = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]{0,95}(?<![.-])(?<!\.git)", re.ASCII)
_REVISION = re.compile(r"(?!.*(\.\.|//))[\w.][\w./+-]{0,199}(?<!/)", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"sha256=([0-9a-fA-F]{64})")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_GET_HASH = (
    "get the hash from whoever publishes the bundle; of a file that you have: sha256sum name.svgb.tar\n"
    "  then give: https://host/name.svgb.tar#sha256=HASH"
)


@dataclass(frozen=True)
class HubAddress:
    """A model on the Hugging Face Hub. `revision` is a branch or a tag, which can move, or a commit, which cannot."""

    repo: str  # user/name
    revision: str = DEFAULT_REVISION

    @property
    def is_pinned(self) -> bool:
        """Whether it always means the same files."""
        return _COMMIT.fullmatch(self.revision) is not None

    @property
    def name(self) -> str:
        """The model's name, without the user."""
        return self.repo.partition("/")[2]

    def at(self, revision: str) -> HubAddress:
        """The same model at another revision."""
        return HubAddress(self.repo, revision)

    def __str__(self) -> str:
        return f"hf://{self.repo}@{self.revision}"


@dataclass(frozen=True)
class ArchiveAddress:
    """A bundle in a tar archive on a web server, with the hash of the archive."""

    url: str  # as it is requested: in ASCII, without the fragment
    sha256: str

    @property
    def name(self) -> str:
        """The model's name: that of the file without its suffixes, in plain letters."""
        file = PurePosixPath(unquote(urlsplit(self.url).path)).name
        plain = re.sub(r"[^\w.-]", "_", file.removesuffix(".tar").removesuffix(".svgb"), flags=re.ASCII)
        return plain.lstrip(".")[:80] or "model"

    def __str__(self) -> str:
        """Host and path: a query often carries a signature that lets everybody in."""
        parts = urlsplit(self.url)
        return console_text(f"{parts.scheme}://{parts.netloc}{parts.path}")


def is_model_address(model: str | os.PathLike[str]) -> bool:
    """Whether a model is named by an address, not by a path. `hf:/user/name`, as pathlib writes it, counts."""
    return _ADDRESS.fullmatch(os.fspath(model)) is not None


def shown_address(address: str | os.PathLike[str]) -> str:
    """An address for a message: with both slashes, one of which pathlib takes away, and without query and hash."""
    found = _ADDRESS.fullmatch(os.fspath(address))
    return _shown(f"{found[1]}://{found[2]}" if found else os.fspath(address))


def parse_model_address(text: str) -> HubAddress | ArchiveAddress:
    """Read the address of a model.

    Raises:
        UsageError: it is none of the known forms, has no hash, or would be fetched without encryption.
    """
    found = _ADDRESS.fullmatch(text)
    scheme, rest = (found[1].lower(), found[2]) if found else ("", "")
    if scheme == "hf":
        return _hub_address(rest)
    if scheme in ("http", "https"):
        return _archive_address(f"{scheme}://{rest}")
    raise UsageError(f"invalid address of a model: '{_shown(text)}'\n  expected a *.svgb folder, {FORMS}")


def parse_hub_address(text: str) -> HubAddress:
    """Read an address of the Hub alone.

    Raises:
        UsageError: it is not one.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or found[1].lower() != "hf":
        raise _no_hub_address(text)
    return _hub_address(found[2])


def is_encrypted_or_local(url: str) -> bool:
    """Whether nobody on the way can read what is fetched: https, or a server on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))


def is_server_address(url: str, schemes: Container[str] = ("http", "https")) -> bool:
    """Whether a URL names a server that can be asked: a known scheme, a host, and if there is a port, one that exists."""
    parts = _split(url)
    return parts is not None and parts.scheme in schemes and url.isprintable() and " " not in url


def _no_hub_address(text: str) -> UsageError:
    """The same for --model and --push, which takes a branch after @, but no commit."""
    return UsageError(f"invalid address of the Hub: '{_shown(text)}'\n  expected hf://user/name")


def _hub_address(rest: str) -> HubAddress:
    repo, at, revision = rest.partition("@")
    parts = repo.split("/")
    if len(parts) != 2 or not all(_REPO_PART.fullmatch(part) for part in parts):
        raise _no_hub_address(f"hf://{rest}")
    if at and not _REVISION.fullmatch(revision):
        raise UsageError(
            f"invalid revision in '{_shown(f'hf://{rest}')}'\n"
            f"  expected a branch, a tag or a commit after @, or no @ for {DEFAULT_REVISION}"
        )
    return HubAddress(repo, revision or DEFAULT_REVISION)


def _archive_address(text: str) -> ArchiveAddress:
    parts = _split(text)
    shown = _shown(text)
    if parts is None or not text.isprintable() or " " in text:
        raise UsageError(f"invalid address of a model: '{shown}'\n  expected {FORMS}")
    if "@" in parts.netloc:
        raise UsageError(
            f"the address of a model has a user name in it: '{shown}'\n"
            "  download the file yourself, unpack it with tar -xf, and give the folder"
        )
    try:
        url = _request_url(parts)
    except UnicodeError as error:
        raise UsageError(f"no server has a name like that in '{shown}'\n  expected {FORMS}") from error
    if not is_encrypted_or_local(url):
        raise UsageError(
            f"a model is not fetched without encryption: '{shown}'\n  expected an address that starts with https://"
        )
    if not parts.path.endswith(".tar"):
        raise UsageError(
            f"'{shown}' is not named like a tar archive\n  expected a bundle packed with: tar -cf name.svgb.tar name.svgb"
        )
    if not parts.fragment:
        raise UsageError(f"the address has no hash: '{shown}'\n  {_GET_HASH}")
    digest = _HASH.fullmatch(parts.fragment)
    if digest is None:
        raise UsageError(
            f"invalid hash in the address of '{shown}': expected #sha256= and 64 hexadecimal digits\n  {_GET_HASH}"
        )
    return ArchiveAddress(url, digest[1].lower())


def _request_url(parts: SplitResult) -> str:
    """The URL in ASCII: the host as DNS knows it, the rest percent-encoded (RFC 3987, section 3.1).

    Raises:
        UnicodeError: there cannot be such a host.
    """
    host, colon, port = parts.netloc.partition(":")
    netloc = parts.netloc if host.isascii() else f"{host.encode('idna').decode('ascii')}{colon}{port}"
    return _NOT_ASCII.sub(lambda signs: quote(signs[0]), parts._replace(netloc=netloc, fragment="").geturl())


def _split(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        valid = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is not a number, a bracket without its pair
        return None
    return parts if valid else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(text: str) -> str:
    """The address without query, hash and login."""
    return console_text(re.split("[?#]", text)[0])[:200]
