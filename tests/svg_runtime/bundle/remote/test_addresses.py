"""Addresses of models: what is one, what it means, and what is refused before any connection."""

from __future__ import annotations

from pathlib import Path

import pytest

from svg_common.errors import UsageError
from svg_runtime.bundle.reader import find_model
from svg_runtime.bundle.remote.addresses import (
    ArchiveAddress,
    HubAddress,
    is_encrypted_or_local,
    is_model_address,
    parse_hub_address,
    parse_model_address,
)

HASH = "0123456789abcdef" * 4
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "repo", "revision", "pinned"),
    [
        ("hf://ada/cam", "ada/cam", "main", False),
        ("hf://ada/cam@v1.0", "ada/cam", "v1.0", False),
        ("hf://ada/cam@refs/pr/3", "ada/cam", "refs/pr/3", False),
        (f"hf://ada/my.Cam_2@{COMMIT}", "ada/my.Cam_2", COMMIT, True),
        ("HF:/ada/cam", "ada/cam", "main", False),  # as pathlib writes it
    ],
)
def test_an_address_of_the_hub(text, repo, revision, pinned):
    address = parse_model_address(text)
    assert address == HubAddress(repo, revision) == parse_hub_address(text)
    assert address.is_pinned == pinned
    assert parse_model_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "name", "shown"),
    [
        ("https://example.org/m/cam.svgb.tar", "cam", "https://example.org/m/cam.svgb.tar"),
        ("https://example.org/a%2F..%2Fb.tar?signature=secret", "b", "https://example.org/a%2F..%2Fb.tar"),
        ("http://127.0.0.1:8000/ca m%00.tar".replace(" ", "%20"), "ca_m_", "http://127.0.0.1:8000/ca%20m%00.tar"),
        ("http://[::1]/..tar", "model", "http://[::1]/..tar"),
    ],
)
def test_an_address_of_an_archive(text, name, shown):
    address = parse_model_address(f"{text}#sha256={HASH.upper()}")
    assert address == ArchiveAddress(text, HASH)
    assert (address.name, str(address)) == (name, shown)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://host/cám%20é.svgb.tar?clé=é%2B", "https://host/c%C3%A1m%20%C3%A9.svgb.tar?cl%C3%A9=%C3%A9%2B"),
        ("https://bücher.example:8443/cam.tar", "https://xn--bcher-kva.example:8443/cam.tar"),
        ("http://[::1]:80/é.tar", "http://[::1]:80/%C3%A9.tar"),
    ],
)
def test_an_address_of_an_archive_is_requested_in_ascii(text, url):
    assert parse_model_address(f"{text}#sha256={HASH}") == ArchiveAddress(url, HASH)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hf://cam", "expected hf://user/name"),
        ("hf://ada/cam/fp32", "expected hf://user/name"),
        ("hf://../cam", "expected hf://user/name"),
        ("hf://ada/.cam", "expected hf://user/name"),
        ("hf://ada/a--b", "expected hf://user/name"),
        ("hf://ada/cam.git", "expected hf://user/name"),
        ("hf://ada/cam@", "invalid revision"),
        ("hf://ada/cam@../../etc", "invalid revision"),
        ("hf://ada/cam@a b", "invalid revision"),
        ("hf://ada/cam@/main", "invalid revision"),
        ("s3://bucket/cam.svgb", "invalid address"),
        ("file:///models/cam.svgb", "invalid address"),
        ("https://example.org/cam.svgb.tar", "sha256sum"),
        ("https://example.org/cam.svgb.tar#sha256=12", "64 hexadecimal digits"),
        (f"https://example.org/cam.svgb.tar#md5={HASH}", "64 hexadecimal digits"),
        (
            f"https://example.org/cam.svgb.tar.gz#sha256={HASH}",
            "is not named like a tar archive\n  expected a bundle packed with: tar -cf",
        ),
        (f"http://example.org/cam.svgb.tar#sha256={HASH}", "https://"),
        (f"http://127.0.0.1.example.org/cam.svgb.tar#sha256={HASH}", "https://"),
        (f"https://example.org:port/cam.svgb.tar#sha256={HASH}", "invalid address"),
        (f"https:///cam.svgb.tar#sha256={HASH}", "invalid address"),
        (f"https://bü..example/cam.svgb.tar#sha256={HASH}", "no server has a name like that"),
        (f"https://exam ple.org/cam.svgb.tar#sha256={HASH}", "invalid address"),
        (f"https://ada:secret@example.org/cam.svgb.tar#sha256={HASH}", "user name"),
    ],
)
def test_an_invalid_address_is_refused_in_one_message(text, reason):
    assert is_model_address(text)
    with pytest.raises(UsageError) as error:
        find_model(text)
    assert reason in str(error.value)
    assert "\n  " in str(error.value)  # what to do
    assert "secret" not in str(error.value)


def test_training_starts_from_no_address():
    from svg_train.shipped_models import find_checkpoint

    with pytest.raises(UsageError, match="--init takes no address"):
        find_checkpoint("hf://ada/cam")


@pytest.mark.parametrize("path", ["camera", "ckpt.svgb", "./a:b", "C:/models/cam.svgb", "C:\\models", "/a/hf:/b", "", "10:30"])
def test_a_path_is_no_address(path):
    assert not is_model_address(path)
    assert not is_model_address(Path(path))


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://example.org/a", True),
        ("http://localhost:1/a", True),
        ("http://127.9.9.9/a", True),
        ("http://[::1]:1/a", True),
        ("http://example.org/a", False),
        ("http://10.0.0.1/a", False),
        ("ftp://127.0.0.1/a", False),
        ("file:///etc/passwd", False),
    ],
)
def test_only_encrypted_or_local_connections_are_made(url, allowed):
    assert is_encrypted_or_local(url) == allowed
