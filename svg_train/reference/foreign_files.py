"""Files that are not checkpoints at all, recognized by their first bytes: what they are, and how to get the real one."""

from __future__ import annotations

import re

HEAD_BYTES = 512  # that `describe_foreign` needs
_TEXT_SHOWN = 60  # characters

FETCH_AGAIN = "fetch the file again, and compare its size with the original's"
_WEB_PAGE = re.compile(rb"\s*(<!--|<!doctype html|<html|<head|<body)", re.IGNORECASE)
_POINTERS = {
    b"version https://git-lfs.github.com/": ("a pointer of Git LFS, not the file that it stands for", "git lfs pull"),
    b"/annex/objects/": ("a pointer of git-annex, not the file that it stands for", "git annex get FILE"),
}
_MAGIC = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive", b"Rar!\x1a\x07": "a RAR archive", b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\x04\x22\x4d\x18": "compressed with lz4", b"\x1f\x9d": "compressed with compress", b"LZIP": "compressed with lzip",
}  # fmt: skip
_OTHER = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes them", b"\x93NUMPY": "an array of NumPy", b"GGUF": "a GGUF file",
    b"\x89PNG\r\n\x1a\n": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture", b"%PDF": "a PDF document",
    b"PK\x05\x06": "an empty zip archive",
}  # fmt: skip


def describe_foreign(head: bytes) -> str | None:
    """Return what a file is that starts with `head`, and on a second line what to do; None if that is not known.

    Args:
        head: the first `HEAD_BYTES` bytes of the file, or all of them.
    """
    if not head.strip(b"\0"):
        what = "it contains only zeros, so a copy or download was not finished" if head else "it is empty"
        return f"{what}\n  {FETCH_AGAIN}"
    if _WEB_PAGE.match(head):
        return "it is a web page\n  open it in a browser to see why; then download the file itself"
    for start, (what, command) in _POINTERS.items():
        if head.startswith(start):
            return f"it is {what}\n  fetch that with: {command}"
    for start, what in _MAGIC.items():
        if head.startswith(start):
            return f"it is {what}\n  unpack it, then give the checkpoint in it"
    for start, what in _OTHER.items():
        if head.startswith(start):
            return f"it is {what}"
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "it is a pickle of another program\n  load it there, and save it with torch.save"
    return _describe_text(head)


def _describe_text(head: bytes) -> str | None:
    """A server's error message, JSON, XML, or another text."""
    try:
        text = head.decode("utf-8", "strict" if len(head) < HEAD_BYTES else "ignore").strip()
    except UnicodeDecodeError:
        return None
    first = text.splitlines()[0][:_TEXT_SHOWN] if text else ""
    return f"it is a text that begins with: {first}" if first.isprintable() and len(text) > len(head) // 2 else None
