"""A stand-in for the model hub on the loopback: the requests that its client makes, answered as the hub does or not."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

TOKEN, EXPIRED = "hf_loopback", "hf_expired"
LARGE = (".safetensors", ".bin", ".pt")  # served by another host, as the hub does with files in its large storage
FAULTS = {
    "missing": "404, as for a file that the repository has not",
    "down": "500",
    "stalls": "takes the request and never answers",
    "truncates": "promises the whole body and hangs up half-way",
    "corrupts": "a body of the right length with other bytes",
}


@dataclass(frozen=True)
class Request:
    """One request as it came in, and what was answered; status 0 for nothing."""

    method: str
    path: str
    token: str | None
    status: int


@dataclass
class Repo:
    """Files by commit; `head` is the commit called main."""

    gated: bool
    large: bool
    head: str = ""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)


class Hub:
    """A hub of repositories with faults to order, serving from a thread for the time of a `with`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.waits: list[float] = []
        self._repos: dict[str, Repo] = {}
        self._blobs: dict[str, bytes] = {}
        self._faults: dict[str, tuple[str, float]] = {}
        self._closing = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """From now on connections are refused."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(
        self, repo: str, files: dict[str, bytes | Path], commit: str | None = None, gated: bool = False,
        large: bool = False,
    ) -> str:  # fmt: skip
        """Publish a commit, whose name is returned, and point main at it; older commits stay.

        Args:
            commit: its name, 40 hexadecimal digits; by default a hash of the files.
            gated: only a request with `TOKEN` gets a file.
            large: weight files are redirected to another host, with their size and SHA-256.
        """
        content = {name: given if isinstance(given, bytes) else given.read_bytes() for name, given in files.items()}
        listed = repr(sorted((name, sha256(body)) for name, body in content.items()))
        commit = commit or hashlib.sha1(listed.encode()).hexdigest()
        entry = self._repos.setdefault(repo, Repo(gated, large))
        entry.gated, entry.large, entry.head = gated, large, commit
        entry.commits[commit] = content
        self._blobs |= {sha256(c): c for c in content.values()}
        return commit

    def forget(self, repo: str, commit: str | None = None) -> None:
        """Take a repository down, or one commit of it."""
        if commit is None:
            del self._repos[repo]
        else:
            del self._repos[repo].commits[commit]

    def fault(self, file: str, kind: str, times: float = float("inf")) -> None:
        """Let requests for files of this name fail, the first `times` of them."""
        assert kind in FAULTS
        self._faults[file] = (kind, times)

    def next_fault(self, file: str, method: str) -> str | None:
        """The fault that this request meets. Faults of the body spare a HEAD, which has none."""
        kind, left = self._faults.get(file, ("", 0))
        if left <= 0 or (method == "HEAD" and kind in ("truncates", "corrupts")):
            return None
        self._faults[file] = (kind, left - 1)
        return kind


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        parts = path.split("/")
        if parts[0] == "blobs":
            return self._send(self.hub._blobs[parts[1]], fault=self.hub.next_fault(parts[2], self.command))
        if self._token() == EXPIRED:  # not even what is open to all
            return self._refuse(401, "", {"X-Error-Message": "Invalid credentials in Authorization header"})
        if parts[:2] == ["api", "models"]:
            return self._api("/".join(parts[2:4]), parts[4:])
        if parts[2:3] == ["resolve"]:
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return self._refuse(404, "")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repo = self.hub._repos.get(name)
        if repo is None:
            return self._refuse(401, "RepoNotFound")
        if repo.gated and self._token() != TOKEN:
            return self._refuse(401 if self._token() is None else 403, "GatedRepo")
        commit = repo.head if revision == "main" else revision
        if commit not in repo.commits:
            return self._refuse(404, "RevisionNotFound")
        fault = self.hub.next_fault(file, self.command)
        known = {"X-Repo-Commit": commit}
        if file not in repo.commits[commit] or fault == "missing":
            return self._refuse(404, "EntryNotFound", known)
        body = repo.commits[commit][file]
        if not (repo.large and file.endswith(LARGE)):
            return self._send(body, known | {"ETag": f'"{git_sha1(body)}"'}, fault)
        digest = sha256(body)
        known |= {"X-Linked-Size": str(len(body)), "X-Linked-ETag": f'"{digest}"'}
        # 'localhost' is another host than '127.0.0.1': a token must not follow
        other = f"http://localhost:{self.server.server_port}/blobs/{digest}/{file}"
        return self._send(b"", known | {"Location": other, "ETag": f'"{digest}"'}, fault, status=302)

    def _api(self, name: str, rest: list[str]) -> None:
        """What a repository holds: open to all, even where its files are not."""
        repo = self.hub._repos.get(name)
        if repo is None:
            return self._refuse(401, "RepoNotFound")
        revision = rest[1] if len(rest) > 1 else "main"
        commit = repo.head if revision == "main" else revision
        if commit not in repo.commits:
            return self._refuse(404, "RevisionNotFound")
        files = repo.commits[commit]
        if rest[:1] != ["tree"]:
            listed = [{"rfilename": file} for file in files]
            return self._json({"id": name, "sha": commit, "private": False, "tags": [], "siblings": listed})
        if rest[2:]:
            return self._refuse(404, "EntryNotFound")
        return self._json([{"type": "file", "path": f, "size": len(b), "oid": git_sha1(b)} for f, b in files.items()])

    def _json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(b"", {"X-Error-Code": code, **(headers or {})}, status=status)

    def _send(
        self, body: bytes, headers: dict[str, str] | None = None, fault: str | None = None, status: int = 200
    ) -> None:
        if fault == "stalls":
            self._note(0)
            self.hub._closing.wait(30)
            self.close_connection = True
            return
        if fault == "down":
            body, status = b"", 500
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start:
            headers = {**(headers or {}), "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            body, status = body[start:], 206
        self._note(status)
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "corrupts":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if fault == "truncates":
            body, self.close_connection = body[: len(body) // 2], True
        self.wfile.write(body)

    def _note(self, status: int) -> None:
        self.hub.requests.append(Request(self.command, self.path, self._token(), status))

    def _token(self) -> str | None:
        given = self.headers.get("Authorization")
        return given.removeprefix("Bearer ") if given else None

    def log_message(self, *_: object) -> None:
        """Nothing: `Hub.requests` is the log."""


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def git_sha1(body: bytes) -> str:
    """What git calls a file: the hub's tag of those that it keeps in the repository itself."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def point_at(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Turn the hub's client to `url` and to an empty cache under `home`, in this process and in those it starts.

    Returns:
        The waits, in seconds, that the client would have made between its attempts; it makes none.
    """
    import huggingface_hub
    from huggingface_hub import constants, file_download, hf_api
    from huggingface_hub.utils import _http

    for key in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(key, raising=False)
    given = {"HF_ENDPOINT": url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost"}
    given |= {"HF_HUB_DISABLE_TELEMETRY": "1", "BUSISTORE_CACHE": str(home / "busistore")}
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    read_at_import = {
        "ENDPOINT": url, "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_TELEMETRY": True,
    }  # fmt: skip
    for key, value in read_at_import.items():
        monkeypatch.setattr(constants, key, value)
    monkeypatch.setattr(hf_api.api, "endpoint", url)
    waits: list[float] = []
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=waits.append, monotonic=time.monotonic))
    if "transformers" in sys.modules:  # it keeps a client that knows the endpoint of old
        import transformers.utils.hub

        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    huggingface_hub.close_session()
    return waits


def without_patience(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.3) -> None:
    """Let the client give a silent hub up so soon."""
    from huggingface_hub import constants, file_download

    from busistore.models import hub as ours

    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, name, seconds)
    monkeypatch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", seconds)
    monkeypatch.setattr(ours, "TIMEOUT_S", seconds)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the client's next request goes to, and an empty cache."""
    with Hub() as served:
        served.waits = point_at(served.url, tmp_path / "home", monkeypatch)
        yield served
