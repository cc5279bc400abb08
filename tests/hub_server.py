"""A stand-in for the Hugging Face Hub: the part of its HTTP API that huggingface_hub calls for models, on loopback.

Repositories are dictionaries of files per commit. *.onnx files lie in large file storage, as the Hub's .gitattributes say: they
are served by a redirect, and uploaded by LFS's batch API. The Hub's own storage protocol, Xet, is not spoken here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import pytest

Server = TypeVar("Server", bound=ThreadingHTTPServer)
TOKEN = "hf_token_of_the_test"
USER = "ada"


@dataclass
class Repo:
    """A repository; `commits` are files by path, by the commit's name."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes], message: str = "a commit", branch: str = "main") -> str:
        """Add a commit with exactly these files; returns its name."""
        parent = self.branches.get(branch, "")
        content = [f"{path} {hashlib.sha1(data).hexdigest()}" for path, data in sorted(files.items())]
        name = hashlib.sha1("\n".join([parent, message, *content]).encode()).hexdigest()
        self.commits[name] = dict(files)
        self.branches[branch] = name
        self.messages.append(message)
        return name

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, or of a commit's name."""
        return self.branches.get(revision, revision if revision in self.commits else None)


def is_large(path: str) -> bool:
    return path.endswith(".onnx")


class HubServer(ThreadingHTTPServer):
    """The server; `requests` holds method and path of all that was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.broken = False  # answers 503
        self.page: bytes | None = None  # answers it to everything, as the log-in page of a network
        self.loops = False  # redirects the download of a large file to itself
        self.says_sizes = True  # and hashes, in the list of files
        self.may_write = True  # what the token may do
        self.role = "write"  # what the Hub says of that
        self.card_errors: list[str] = []  # of the metadata of every model card
        self.commit_error = ""  # answers 400 to a commit
        self.loses_answer = False  # makes the commit, and answers 504
        self.has_space = True  # for large files; else it answers 507, which the library does not try again

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def large_url(self) -> str:
        """Of another host, as the Hub has one for large files, which must not see the token."""
        return f"http://localhost:{self.server_port}/large"

    def repo(self, name: str) -> Repo:
        return self.repos.setdefault(name, Repo())


def hub_server() -> AbstractContextManager[HubServer]:
    """A running Hub."""
    return serving(HubServer())


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Run a server in a thread."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def use_hub(server: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub in this process talk to `server`, with its cache in `folder`.

    It reads the environment at its import alone, so what it has read is changed. Xet, which is not spoken here, is off.
    """
    from huggingface_hub import constants

    for name, value in {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_TOKEN_PATH": str(folder / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.server.requests.append(f"{self.command} /{path}")
        if self.server.broken:
            return self._send(503, {"error": "down for maintenance"})
        if self.server.page is not None:
            return self._send(200, self.server.page, {"Content-Type": "text/html"})
        if path.startswith("large/"):
            return self._large(path.removeprefix("large/"), body)
        if path == "api/whoami-v2":
            user = {"name": USER, "orgs": [], "auth": {"type": "access_token", "accessToken": {"role": self.server.role}}}
            return self._send(200, user) if self._knows_user else self._refuse(401, "", "Invalid token")
        if path == "api/validate-yaml":
            errors = self.server.card_errors
            if self.headers["Accept"] == "text/plain":
                return self._send(400 if errors else 200, "\n".join(errors).encode(), {"Content-Type": "text/plain"})
            return self._send(400 if errors else 200, {"errors": [{"message": each} for each in errors], "warnings": []})
        if path == "api/repos/create":
            return self._create(json.loads(body))
        if path == "api/repos/delete":
            return self._delete(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        if path.startswith("api/models/"):
            return self._api(path.removeprefix("api/models/"), body)
        user, name, action, rest = [*path.split("/", 3), "", "", ""][:4]
        repo = self._visible(f"{user}/{name}")
        if repo is None or action != "resolve":
            return self._refuse(404, "RepoNotFound", "Repository not found")
        return self._resolve(repo, rest)

    @property
    def _knows_user(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _visible(self, name: str) -> Repo | None:
        repo = self.server.repos.get(name)
        return None if repo is None or (repo.private and not self._knows_user) else repo

    def _api(self, path: str, body: bytes) -> None:
        user, name, action, revision = [*path.split("/", 3), "", "", ""][:4]
        repo = self._visible(f"{user}/{name}")
        if repo is None:
            return self._refuse(404 if self._knows_user else 401, "RepoNotFound", "Repository not found")
        commit = repo.resolve(revision or "main")
        if action in ("", "revision"):
            if commit is None and (revision or "main") not in ("main",):
                return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return self._send(200, self._info(f"{user}/{name}", repo, commit))
        if action == "tree" and commit is not None:
            files = [
                {"type": "file", "path": path, "size": len(data), "oid": _git_hash(data)}
                for path, data in repo.commits[commit].items()
            ]
            return self._send(200, files)
        if not (self._knows_user and self.server.may_write):
            return self._refuse(403, "", "you have no write permission")
        if action == "preupload":
            files = [self._upload_mode(repo, commit, file) for file in json.loads(body)["files"]]
            return self._send(200, {"files": files})
        if action == "commit":
            return self._commit(f"{user}/{name}", repo, revision, body)
        return self._refuse(404, "", f"unknown: {action}")

    def _info(self, name: str, repo: Repo, commit: str | None) -> dict:
        files = repo.commits[commit] if commit else {}
        siblings = [
            {
                "rfilename": path,
                "size": len(data),
                "blobId": _git_hash(data),
                "lfs": _large_file(data) if is_large(path) else None,
            }
            for path, data in files.items()
        ]
        if not self.server.says_sizes:
            siblings = [{"rfilename": path} for path in files]
        return {
            "_id": "1", "id": name, "modelId": name, "sha": commit or "0" * 40, "private": repo.private,
            "gated": "manual" if repo.gated else False, "disabled": False, "tags": [], "downloads": 0, "likes": 0,
            "siblings": siblings,
        }  # fmt: skip

    def _resolve(self, repo: Repo, rest: str) -> None:
        revision, _, path = rest.partition("/")
        commit = repo.resolve(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if repo.gated:
            return self._refuse(403, "GatedRepo", "Access to this model is restricted")
        if path not in repo.commits[commit]:
            return self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        data = repo.commits[commit][path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_git_hash(data)}"'}
        if not is_large(path):
            return self._send(200, data, headers)
        digest = hashlib.sha256(data).hexdigest()
        self.server.large[digest] = data
        linked = {
            "X-Linked-ETag": f'"{digest}"',
            "X-Linked-Size": str(len(data)),
            "Location": f"{self.server.large_url}/{digest}",
        }
        self._send(302, b"", headers | linked)

    def _create(self, wanted: dict) -> None:
        if not (self._knows_user and self.server.may_write):
            return self._refuse(403, "", "you have no permission to create a repository here")
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        url = {"url": f"{self.server.url}/{name}"}
        if name in self.server.repos:
            return self._send(409, url)
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))  # by the release of the library
        self.server.repos[name] = repo = Repo(private=private)
        repo.commit({".gitattributes": b"*.onnx filter=lfs diff=lfs merge=lfs -text\n"}, "initial commit")
        self._send(200, url)

    def _delete(self, wanted: dict) -> None:
        if not (self._knows_user and self.server.may_write):
            return self._refuse(403, "", "you have no permission to delete this repository")
        del self.server.repos[f"{wanted['organization']}/{wanted['name']}"]
        self._send(200, {})

    @staticmethod
    def _upload_mode(repo: Repo, commit: str | None, file: dict) -> dict:
        old = repo.commits[commit].get(file["path"]) if commit else None
        mode = "lfs" if is_large(file["path"]) else "regular"
        oid = None if old is None else hashlib.sha256(old).hexdigest() if mode == "lfs" else _git_hash(old)
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **({"oid": oid} if oid else {})}

    def _batch(self, wanted: dict) -> None:
        objects = []
        for each in wanted["objects"]:
            known = each["oid"] in self.server.large
            upload = {"actions": {"upload": {"href": f"{self.server.large_url}/{each['oid']}"}}}
            objects.append({"oid": each["oid"], "size": each["size"], **({} if known else upload)})
        self._send(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def _large(self, digest: str, body: bytes) -> None:
        if "Authorization" in self.headers:
            return self._refuse(400, "", "the token was sent to another host")
        if self.server.loops:
            return self._send(302, b"", {"Location": f"{self.server.large_url}/{digest}"})
        if self.command == "PUT":
            if not self.server.has_space:
                return self._send(507, b"")
            assert hashlib.sha256(body).hexdigest() == digest
            self.server.large[digest] = body
            return self._send(200, b"")
        self._send(200, self.server.large[digest])

    def _commit(self, name: str, repo: Repo, branch: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        parent = repo.branches.get(branch)
        if self.server.commit_error:
            return self._refuse(400, "", self.server.commit_error)
        if header.get("parentCommit") not in (None, parent):
            return self._refuse(412, "", "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[parent]) if parent else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repo.commit(files, header["summary"], branch)
        if self.server.loses_answer:
            return self._send(504, {"error": "gateway timeout"})
        self._send(200, {"commitUrl": f"{self.server.url}/{name}/commit/{commit}", "commitOid": commit})

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        errors = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._send(status, {"error": message}, errors | (headers or {}))

    def _send(self, status: int, content: bytes | dict | list, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = {"Content-Type": "application/octet-stream" if isinstance(content, bytes) else "application/json"}
        self.send_response(status)
        for name, value in {**kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _large_file(data: bytes) -> dict:
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
