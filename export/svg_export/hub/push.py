"""Pushes a bundle to the Hugging Face Hub: manifest, graphs and model card, in one commit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svg_common.errors import SvgError, UsageError
from svg_export.hub.model_card import MARK, has_licence_alone, licence_of, model_card
from svg_runtime.bundle.manifest import FILE_NAME, PRECISIONS, Manifest
from svg_runtime.bundle.reader import Bundle
from svg_runtime.bundle.remote.addresses import DEFAULT_REVISION, HubAddress, parse_hub_address
from svg_runtime.bundle.remote.hub_library import LOG_IN, endpoint, explaining, hub_cache, load_hub, talking
from svg_runtime.bundle.remote.published import check_fetchable, graph_files, listed

_LOG = logging.getLogger(__name__)
_MARK = b"svg-bundle"  # in every manifest
_CARD = "README.md"
_HARMLESS = (_CARD, ".gitattributes", "LICENSE", "LICENSE.md", "LICENSE.txt")  # what a new repository may have
_PUBLIC_HUB = "https://huggingface.co"
_AGAIN = "nothing was pushed; check the connection, and run the command again"


@dataclass(frozen=True)
class Push:
    """A push whose address, token and target were checked.

    Args:
        address: where to push.
        licence: for the card; None: the one of the card that is there, if any.
        private: whether a new repository is visible to its owner alone.
        files: in the repository now; None if there is no repository yet.
        parent: its last commit.
    """

    address: HubAddress
    licence: str | None
    private: bool
    files: frozenset[str] | None
    parent: str | None

    def run(self, bundle: Bundle) -> HubAddress:
        """Push a bundle, all of whose files are checked first; returns its address, pinned to the commit.

        Raises:
            BundleError: the bundle is damaged, has files that are not fetched, or another one has taken its place meanwhile.
            UsageError: the Hub does not accept the model card.
            SvgError: the Hub refuses, or cannot be reached. Nothing of the bundle is then visible there, unless the answer to
                the commit was lost; the message says so.
        """
        bundle.check()
        check_fetchable(bundle.manifest)
        hub = load_hub("--push")
        api = hub.HfApi()
        with explaining(self.address, _AGAIN):
            card = self._card(hub, bundle.manifest)
            if card is not None:
                _check_card(hub, card)
            if self.files is None:
                with talking():
                    api.create_repo(self.address.repo, private=self.private)
            try:
                operations = self._upload(hub, api, bundle, card)
                commit = self._commit(api, bundle.manifest, operations)
            except BaseException:  # also Ctrl-C
                if self.files is None:
                    _remove_empty(api, self.address)
                raise
        return self.address.at(commit.oid)

    def _upload(self, hub: Any, api: Any, bundle: Bundle, card: str | None) -> list[Any]:
        """Bring the files to the Hub, where nobody sees them before the commit; return what the commit does.

        Everything of the bundle is added, and graphs of an older one are deleted. One file at a time is in memory: by its path,
        the library would read it again later, and another export may have taken its place by then.
        """
        graphs = graph_files(bundle.manifest)
        size = len(bundle.content(FILE_NAME)) + sum(graphs.values())  # as checked: the files may be others by now
        _LOG.info("pushing %d files (%.1f MB) to %s", 1 + len(graphs), size / 1e6, self.address)
        operations = []
        for name in (FILE_NAME, *graphs):
            addition = hub.CommitOperationAdd(name, bundle.content(name))
            with talking():  # which frees the content of large files
                api.preupload_lfs_files(self.address.repo, [addition], revision=self.address.revision)
            operations.append(addition)
        if card is not None:
            operations.append(hub.CommitOperationAdd(_CARD, card.encode("utf-8")))
        old = sorted(name for name in self.files or () if _is_graph(name) and name not in graphs)
        return operations + [hub.CommitOperationDelete(name) for name in old]

    def _commit(self, api: Any, manifest: Manifest, operations: list[Any]) -> Any:
        page = f"{endpoint()}/{self.address.repo}/commits/{self.address.revision}"
        lost = f"the push may have arrived all the same: look at {page} before you push again"
        with explaining(self.address, lost), talking(), _card_is_accepted():
            return api.create_commit(
                self.address.repo,
                operations,
                commit_message=f"Bundle {manifest.bundle_id}",
                commit_description=f"Made by svg-edge {manifest.provenance.versions.get('svg-edge', '')}".strip(),
                revision=self.address.revision,
                parent_commit=self.parent,
            )

    def _card(self, hub: Any, manifest: Manifest) -> str | None:
        """The card to write; None: the one that is there was written by hand, and stays."""
        licence = self.licence
        if self.files and _CARD in self.files:
            with talking(hub_cache()):
                card = hub.hf_hub_download(self.address.repo, _CARD, revision=self.parent)
            old = Path(card).read_text("utf-8", "replace")
            if MARK not in old and not has_licence_alone(old):  # the Hub makes such a card for a new repository
                _LOG.info("%s of %s was written by hand: it stays as it is", _CARD, self.address)
                return None
            licence = licence or licence_of(old)
        return model_card(manifest, self.address, licence)


def prepare_push(address: str, licence: str | None, public: bool) -> Push:
    """Check everything that can be checked before a bundle is there.

    Whether a token with permissions for single repositories has that of this one, only the push shows.

    Raises:
        UsageError: an invalid address, one with a commit, a branch of a repository that does not exist, or a repository with
            other things in it.
        MissingExtraError: huggingface_hub is not installed.
        SvgError: nobody is logged in, the token may only read, or there is no connection.
    """
    target = parse_hub_address(address)
    if target.is_pinned:
        raise UsageError(f"--push makes a new commit, and cannot change one: '{target}'\n  expected hf://{target.repo}")
    hub = load_hub("--push")
    from huggingface_hub.errors import RepositoryNotFoundError

    api = hub.HfApi()
    with explaining(target, _AGAIN):
        with talking():
            _refuse_read_only(api.whoami(), target)
        try:
            with talking():
                info = api.model_info(target.repo, revision=target.revision)
        except RepositoryNotFoundError:
            if target.revision != DEFAULT_REVISION:
                raise UsageError(
                    f"hf://{target.repo} does not exist, and a new one has no branch '{target.revision}'\n"
                    f"  push to hf://{target.repo} first"
                ) from None
            return Push(address=target, licence=licence, private=not public, files=None, parent=None)
        files = frozenset(file.rfilename for file in info.siblings or ())
        _refuse_foreign(hub, target.at(str(info.sha)), files)
    if public and info.private:
        raise UsageError(
            f"--public has no effect on hf://{target.repo}, which exists and is private\n"
            f"  make it public at {endpoint()}/{target.repo}/settings, and remove --public"
        )
    return Push(address=target, licence=licence, private=bool(info.private), files=files, parent=str(info.sha))


def _refuse_read_only(user: dict[str, Any], address: HubAddress) -> None:
    """Refuse a token that may write nowhere, before the minutes of an export."""
    token = (user.get("auth") or {}).get("accessToken") or {}  # other ways to log in have none
    if token.get("role") == "read":
        raise SvgError(
            f"the token of this machine may only read, and a push to hf://{address.repo} has to write\n"
            f"  make one that may write at {endpoint()}/settings/tokens, then {LOG_IN}"
        )


def _refuse_foreign(hub: Any, address: HubAddress, files: frozenset[str]) -> None:
    """Refuse a repository with something else in it, such as a model of another program."""
    if FILE_NAME in files:
        with talking(hub_cache()):
            manifest = hub.hf_hub_download(address.repo, FILE_NAME, revision=address.revision)
        if _MARK in Path(manifest).read_bytes():
            return
    others = files.difference(_HARMLESS)
    if others:
        raise UsageError(f"hf://{address.repo} exists and holds no bundle, but: {listed(others)}\n  choose another name")


def _remove_empty(api: Any, address: HubAddress) -> None:
    """Remove the repository that was made for a push which failed, unless its commit has arrived all the same."""
    try:
        files = {file.rfilename for file in api.model_info(address.repo).siblings or ()}
        if files <= {".gitattributes"}:
            api.delete_repo(address.repo)
    except Exception:  # the Hub is away, or the token may not delete: the error of the push is what is reported
        repo, page = address.repo, f"{endpoint()}/{address.repo}/settings"
        _LOG.warning("hf://%s was made for this push, and may be left empty; delete it at %s, or push again", repo, page)


def _check_card(hub: Any, card: str) -> None:
    """Ask the Hub whether it accepts the card, before minutes of upload.

    Before 2.4, the library asks huggingface.co, whichever Hub it talks to: with another one, the commit asks.
    """
    if endpoint() == _PUBLIC_HUB or tuple(map(int, hub.__version__.split(".")[:2])) >= (2, 4):
        with talking(), _card_is_accepted():
            hub.ModelCard(card).validate(repo_type="model")


@contextmanager
def _card_is_accepted() -> Iterator[None]:
    """Around calls that let the Hub check metadata of the card, such as the licence.

    Raises:
        UsageError: it does not accept them.
    """
    try:
        yield
    except ValueError as error:  # of its kinds, one is a status 400
        if type(error) is not ValueError or "improperly formatted" in str(error):  # the answer cannot be read
            raise
        reason = " ".join(str(error).split())
        raise UsageError(f"the Hub does not accept the model card: {reason}\n  check --licence") from error


def _is_graph(name: str) -> bool:
    folder, _, file = name.partition("/")
    return folder in PRECISIONS and file.endswith(".onnx") and "/" not in file
