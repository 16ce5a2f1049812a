"""A Hugging Face hub on loopback, of one model under many ids, each of which fails in its own way.

It speaks what `huggingface_hub` asks a hub for: files of a revision, with their ETags (of weights
the SHA-256, as for large files), and what a revision holds. An id's fault lasts until it is healed.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
WEIGHTS = "model.safetensors"
STALL = 60.0
"""Seconds without a byte: longer than a client waits."""

Headers = Mapping[str, str]
Fault = Callable[["Hub", str], bool]
"""Answers a request for that path in its own way; False leaves it to the hub."""


def refuses(status: int, code: str | None = None, **headers: str) -> Fault:
    """Every request, with this status, and the code in which the hub says why."""

    def answer(hub: Hub, path: str) -> bool:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        hub.answer(status, b"", {**({"X-Error-Code": code} if code else {}), **named})
        return True

    return answer


def without(name: str) -> Fault:
    """A repo that has no such file."""

    def answer(hub: Hub, path: str) -> bool:
        if not path.endswith(f"/{name}"):
            return False
        hub.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        return True

    return answer


def of_weights(send: Callable[[Hub, bytes], None]) -> Fault:
    """One that meets the weights alone, once they are asked for whole."""

    def answer(hub: Hub, path: str) -> bool:
        if not path.endswith(WEIGHTS) or hub.command != "GET":
            return False
        send(hub, hub.files[WEIGHTS])
        return True

    return answer


def _reset(hub: Hub, content: bytes) -> None:
    hub.head(200, len(content))
    hub.wfile.write(content[: len(content) // 2])
    hub.wfile.flush()
    hub.connection.shutdown(socket.SHUT_RDWR)


def _stall(hub: Hub, content: bytes) -> None:
    hub.head(200, len(content))
    hub.wfile.write(content[: len(content) // 2])
    hub.wfile.flush()
    hub.closing.wait(STALL)


def _drip(hub: Hub, content: bytes) -> None:
    hub.head(200, len(content))
    for start in range(0, len(content), max(1, len(content) // 12)):
        hub.wfile.write(content[start : start + max(1, len(content) // 12)])
        hub.wfile.flush()
        time.sleep(0.2)


def _short(hub: Hub, content: bytes) -> None:
    hub.head(200, len(content) // 2)
    hub.wfile.write(content[: len(content) // 2])


def _flipped(hub: Hub, content: bytes) -> None:
    """Of the right length, with other values: no reader of the format can tell."""
    hub.head(200, len(content))
    hub.wfile.write(content[:-4096] + bytes(255 - byte for byte in content[-4096:]))


def _unsatisfiable(hub: Hub, content: bytes) -> None:
    """Cut off at first, and 416 to whoever wants to go on from there."""
    if hub.headers.get("Range"):
        hub.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
    else:
        _reset(hub, content)


def _loops(hub: Hub, path: str) -> bool:
    hub.answer(302, b"", {"Location": path})
    return True


def _hangs_up(hub: Hub, path: str) -> bool:
    hub.connection.shutdown(socket.SHUT_RDWR)
    return True


FAULTS: Mapping[str, Fault] = {
    "unauthorised": refuses(401),
    "gated": refuses(403, "GatedRepo"),
    "gated-without-token": refuses(401, "GatedRepo"),
    "forbidden": refuses(403),
    "no-such-model": refuses(404, "RepoNotFound"),
    "no-such-revision": refuses(404, "RevisionNotFound"),
    "no-config": without("config.json"),
    "no-weights": without(WEIGHTS),
    "unsatisfiable-range": of_weights(_unsatisfiable),
    "too-many-requests": refuses(429, None, Retry_After="1"),
    "internal-error": refuses(500),
    "unavailable": refuses(503),
    "hangs-up": _hangs_up,
    "reset": of_weights(_reset),
    "stalled": of_weights(_stall),
    "slow": of_weights(_drip),
    "truncated": of_weights(_short),
    "wrong-hash": of_weights(_flipped),
    "redirect-loop": _loops,
}
"""By the name of the repo, `faulty/…`; any other name is sound."""


class Hub(BaseHTTPRequestHandler):
    """Answers for one request."""

    files: Mapping[str, bytes]
    healed: set[str]
    closing: threading.Event
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """A file, or what the repo holds."""
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/heal/"):
            self.healed.add(path.removeprefix("/heal/"))
            self.answer(200, b"")
            return
        repo = _repo_of(path)
        fault = FAULTS.get(repo.partition("/")[2]) if repo.startswith("faulty/") else None
        if fault is None or repo in self.healed or not fault(self, path):
            self._sound(path)

    do_HEAD = do_GET

    def _sound(self, path: str) -> None:
        if path.startswith("/api/models/"):
            self._answer_api(path)
            return
        name = path.rpartition("/")[2]
        content = self.files.get(name)
        if content is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        tag = hashlib.sha256(content).hexdigest()
        linked = {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(content))}
        self.answer(
            206 if start else 200,
            content[start:],
            {
                "ETag": f'"{tag if name == WEIGHTS else tag[:40]}"',
                "X-Repo-Commit": COMMIT,
                "Accept-Ranges": "bytes",
                **({"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
                   if start else {}),
                **(linked if name == WEIGHTS else {}),
            },
        )  # fmt: skip

    def _answer_api(self, path: str) -> None:
        about: dict[str, Any] = {
            "id": _repo_of(path),
            "sha": COMMIT,
            "siblings": [{"rfilename": name} for name in self.files],
        }
        answer: Any = about
        if "/tree/" in path:
            answer = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in self.files.items()
            ]
        self.answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def head(self, status: int, length: int, headers: Headers | None = None) -> None:
        """The first lines of an answer of so many bytes."""
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def answer(self, status: int, content: bytes, headers: Headers | None = None) -> None:
        """A whole answer."""
        self.head(status, len(content), headers)
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _repo_of(path: str) -> str:
    parts = path.removeprefix("/api/models").strip("/").split("/")
    return "/".join(parts[:2])


@dataclass
class Served:
    """A hub that runs."""

    endpoint: str


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Serve the files of a folder as every id, until the block ends."""
    closing = threading.Event()
    own = {
        "files": {file.name: file.read_bytes() for file in sorted(folder.iterdir())},
        "healed": set(),
        "closing": closing,
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubOfOneModel", (Hub,), own))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Served(endpoint=f"http://127.0.0.1:{server.server_port}")
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
