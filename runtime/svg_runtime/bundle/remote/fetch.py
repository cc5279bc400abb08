"""An address becomes a folder."""

from __future__ import annotations

from pathlib import Path

from svg_common.cache import models_folder
from svg_common.errors import OutputError, UsageError
from svg_runtime.bundle.remote.addresses import FORMS, ArchiveAddress, HubAddress, parse_model_address

_COMMITS: dict[HubAddress, HubAddress] = {}  # of branches and tags: one that moves does not change a running program


def fetch_model(address: str) -> Path:
    """Return the folder of the model at `address`: one in the cache, downloaded when it is not there yet.

    Only manifest.json and the ONNX files that it names are taken, after all their hashes were checked.

    Args:
        address: hf://user/name@revision, from the Hugging Face Hub or the server in $HF_ENDPOINT; or
            https://host/name.svgb.tar#sha256=HASH.

    Raises:
        UsageError: an invalid address.
        MissingExtraError: the extra `hub` is not installed, for the Hub.
        BundleError: no bundle at this address, or a damaged or hostile one.
        SvgError: it cannot be downloaded and is not in the cache, or the cache cannot be written.
    """
    if not isinstance(address, str):
        raise UsageError(f"the address of a model is {address!r}\n  expected {FORMS}")
    parsed = parse_model_address(address)
    try:
        if isinstance(parsed, ArchiveAddress):
            from svg_runtime.bundle.remote.archive import fetch_archive  # urllib and ssl

            return fetch_archive(parsed)
        from svg_runtime.bundle.remote.hub import fetch_from_hub

        folder = fetch_from_hub(_COMMITS.get(parsed, parsed))
        _COMMITS[parsed] = parsed.at(folder.parent.name)
        return folder
    except OSError as error:  # of our cache: those of the network, and of the Hub's cache, are SvgErrors by now
        raise OutputError(models_folder(), error, "set SVG_EDGE_CACHE to a writable folder with free space") from error
