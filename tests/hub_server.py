"""A local server that speaks enough of the Hugging Face Hub's protocol for downloads of models.

Processes started with ``HF_ENDPOINT`` set to the server's URL download from it as from the Hub, which covers
``snapshot_download``, ``hf_hub_download``, ``HfApi.model_info``, ``HfApi.list_repo_tree`` and
``transformers.pipeline(model=repo_id)``. ``huggingface_hub`` reads the variable when it is imported, so it must be set
before. The server announces no xet storage: files travel over plain HTTP.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

BRANCH = "main"
"""The one branch that each repository has."""

_REPO = r"(?P<repo>[^/]+(?:/[^/]+)?)"
_API_PATH = re.compile(rf"/api/models/{_REPO}(?:/(?P<action>revision|tree)/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?")
_FILE_PATH = re.compile(rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_PIPELINE_TAG = re.compile(r"^pipeline_tag:\s*(\S+)\s*$", re.MULTILINE)
_LFS_SUFFIXES = (".safetensors", ".bin")


@dataclass(eq=False)
class _HubError(Exception):
    """An answer other than success.

    Attributes:
        status: HTTP status.
        message: What the Hub's client shows.
        code: Value of ``X-Error-Code``, by which the client tells errors apart; empty for none.
        headers: Further headers.
    """

    status: HTTPStatus
    message: str
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class HubServer:
    """A running server.

    Attributes:
        repos: Folder of each repository, by its id.
        token: Token that requests must bear, or None where anyone may read.
        url: Address to set ``HF_ENDPOINT`` to.
        requests: Method and path, without its query, of each request in order of arrival.
    """

    repos: dict[str, Path]
    token: str | None = None
    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)

    def commit(self, repo_id: str) -> str:
        """Returns the one commit that a repository has."""
        return hashlib.sha1(repo_id.encode()).hexdigest()

    def files(self, repo_id: str) -> dict[str, Path]:
        """Returns the files of a repository by their path in it."""
        folder = self.repos[repo_id]
        return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _blob_id(content: bytes) -> str:
    """Returns git's identifier of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _describe(name: str, content: bytes) -> dict[str, Any]:
    """Returns the entry of a file in the listing of a tree."""
    entry: dict[str, Any] = {"type": "file", "path": name, "oid": _blob_id(content), "size": len(content)}
    if name.endswith(_LFS_SUFFIXES):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def _selected(header: str | None, size: int) -> slice | None:
    """Returns the part of a file that a ``Range`` header asks for, or None for the whole file.

    Raises:
        _HubError: The part lies outside of the file.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return slice(max(size - int(last), 0), size)
    start, stop = int(first), min(int(last) + 1, size) if last else size
    if start >= stop:
        status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        raise _HubError(status, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return slice(start, stop)


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    hub: HubServer

    def do_GET(self) -> None:
        """Answers a request for content."""
        address = urlsplit(self.path)
        self.hub.requests.append((self.command, address.path))
        try:
            self._check_token()
            # In this order, as the paths of files may hold anything.
            if match := _API_PATH.fullmatch(address.path):
                self._answer_api(match, parse_qs(address.query))
            elif match := _FILE_PATH.fullmatch(address.path):
                self._answer_file(match)
            else:
                raise _HubError(HTTPStatus.NOT_FOUND, "Sorry, we can't find the page you are looking for.")
        except _HubError as error:
            # The client reads code and message from the headers, as answers to HEAD have no body.
            headers = {"X-Error-Message": error.message, **error.headers}
            if error.code:
                headers["X-Error-Code"] = error.code
            self._send_json({"error": error.message}, error.status, headers)

    do_HEAD = do_GET

    def _check_token(self) -> None:
        """Raises an error unless the request bears the token, if one is required."""
        sent = self.headers.get("Authorization")
        if self.hub.token is None or sent == f"Bearer {self.hub.token}":
            return
        if sent is None:
            # To strangers the Hub does not tell private repositories from missing ones.
            raise _HubError(HTTPStatus.UNAUTHORIZED, "Invalid username or password.", "RepoNotFound")
        raise _HubError(HTTPStatus.UNAUTHORIZED, "Invalid credentials in Authorization header")

    def _repo(self, match: re.Match[str]) -> tuple[str, dict[str, Path]]:
        """Returns id and files of the repository that is asked for at a revision that it has."""
        repo_id = unquote(match["repo"])
        if repo_id not in self.hub.repos:
            raise _HubError(HTTPStatus.NOT_FOUND, "Repository not found", "RepoNotFound")
        revision = unquote(match["revision"] or BRANCH)
        if revision not in (BRANCH, self.hub.commit(repo_id)):
            raise _HubError(HTTPStatus.NOT_FOUND, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo_id, self.hub.files(repo_id)

    def _missing(self, repo_id: str) -> _HubError:
        """Returns the error of a file or folder that a repository lacks."""
        # With the commit the client remembers that the file is missing.
        headers = {"X-Repo-Commit": self.hub.commit(repo_id)}
        return _HubError(HTTPStatus.NOT_FOUND, "Entry not found", "EntryNotFound", headers)

    def _answer_api(self, match: re.Match[str], query: Mapping[str, list[str]]) -> None:
        """Answers a request about a repository or one of its folders."""
        repo_id, files = self._repo(match)
        if match["action"] == "tree":
            recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            folder = unquote(match["path"] or "")
            self._send_json(self._tree(repo_id, files, folder, recursive))
            return
        info: dict[str, Any] = {
            "id": repo_id,
            "modelId": repo_id,
            "sha": self.hub.commit(repo_id),
            "private": self.hub.token is not None,
            "gated": False,
            "disabled": False,
            "library_name": "transformers",
            "tags": ["transformers"],
            "siblings": [{"rfilename": name, "size": path.stat().st_size} for name, path in files.items()],
        }
        readme = files.get("README.md")
        if readme is not None and (tag := _PIPELINE_TAG.search(readme.read_text(encoding="utf-8"))):
            info["pipeline_tag"] = tag[1]
        self._send_json(info)

    def _tree(self, repo_id: str, files: Mapping[str, Path], folder: str, recursive: bool) -> list[dict[str, Any]]:
        """Returns the entries of a folder, those below its subfolders included if asked for."""
        prefix = f"{folder}/" if folder else ""
        inside = {name: path for name, path in files.items() if name.startswith(prefix)}
        if folder and not inside:
            raise self._missing(repo_id)
        entries = [
            _describe(name, path.read_bytes())
            for name, path in inside.items()
            if recursive or "/" not in name.removeprefix(prefix)
        ]
        folders = {str(parent) for name in inside for parent in Path(name).parents if str(parent) not in (".", folder)}
        entries += [
            {"type": "directory", "path": name, "oid": _blob_id(name.encode()), "size": 0}
            for name in sorted(folders)
            if name.startswith(prefix) and (recursive or "/" not in name.removeprefix(prefix))
        ]
        return entries

    def _answer_file(self, match: re.Match[str]) -> None:
        """Answers a request for a file, or a part of it."""
        repo_id, files = self._repo(match)
        name = unquote(match["path"])
        if name not in files:
            raise self._missing(repo_id)
        content = files[name].read_bytes()
        entry = _describe(name, content)
        headers = {
            "ETag": f'"{entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]}"',
            "X-Repo-Commit": self.hub.commit(repo_id),
            "Accept-Ranges": "bytes",
        }
        part = _selected(self.headers.get("Range"), len(content)) if self.command == "GET" else None
        if part is None:
            self._send(content, "application/octet-stream", HTTPStatus.OK, headers)
        else:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(content)}"
            self._send(content[part], "application/octet-stream", HTTPStatus.PARTIAL_CONTENT, headers)

    def _send_json(
        self, content: Any, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
    ) -> None:
        """Sends an answer as JSON."""
        self._send(json.dumps(content).encode(), "application/json; charset=utf-8", status, headers or {})

    def _send(self, content: bytes, content_type: str, status: HTTPStatus, headers: Mapping[str, str]) -> None:
        """Sends an answer, without its body if the request was for the headers only."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the requests out of the tests' output."""


class _Server(ThreadingHTTPServer):
    """Serves each connection in a thread that does not keep the process alive."""

    daemon_threads = True
    block_on_close = False


@contextmanager
def hub_server(repos: Mapping[str, Path], token: str | None = None) -> Iterator[HubServer]:
    """Serves model repositories on a free local port until the context ends.

    Each repository has one branch, ``main``, at one commit. The files are read anew for each request. The
    ``pipeline_tag`` of a repository is the one in its README.md, as on the Hub.

    Args:
        repos: Folder of each repository, by its id such as ``"org/name"``.
        token: Token that requests must bear; None lets anyone read.

    Yields:
        The running server.
    """
    hub = HubServer(dict(repos), token)
    with _Server(("127.0.0.1", 0), type("_HubHandler", (_Handler,), {"hub": hub})) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
