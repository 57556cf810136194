"""A model hub of one model on the loopback, as huggingface_hub's client sees it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPO = "some/model"
COMMITS = {"main": "c0ffee" + "0" * 34, "v2": "beef" + "0" * 36}


class FakeHub(BaseHTTPRequestHandler):
    """`some/model`, which has the same files in both revisions."""

    files: dict[str, bytes]
    status = 200
    gated = False
    breaks_off = 0  # how many times a file of more than 1 MB breaks off in its middle
    ranges: list[str]  # what was asked for again

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.status != 200 or path == "/":
            self._answer(self.status)
        elif REPO not in path:
            self._answer(404, error="RepoNotFound")
        elif "/resolve/" in path:
            revision, _, name = path.split("/resolve/")[1].partition("/")
            self._file(COMMITS.get(revision, revision), name)
        elif "/tree/" in path:
            sizes = {name: len(body) for name, body in self.files.items()}
            self._json([{"type": "file", "path": n, "size": size, "oid": n} for n, size in sizes.items()])
        else:
            self._repository(path.rpartition("/revision/")[2] if "/revision/" in path else "main")

    do_HEAD = do_GET

    def _repository(self, revision: str) -> None:
        if revision in (*COMMITS, *COMMITS.values()):
            siblings = [{"rfilename": name} for name in self.files]
            self._json({"id": REPO, "sha": COMMITS.get(revision, revision), "siblings": siblings})
        else:
            self._answer(404, error="RevisionNotFound")

    def _file(self, commit: str, name: str) -> None:
        body = self.files.get(name)
        if self.gated or body is None:
            self._answer(*((403, b"", "GatedRepo") if self.gated else (404, b"", "EntryNotFound")))
            return
        headers = {"ETag": f'"{abs(hash(name))}"', "X-Repo-Commit": commit}
        asked = self.headers.get("Range")
        if asked:
            self.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:]
        headers["Content-Length"] = str(len(body))
        if self.command == "GET" and self.breaks_off and len(body) > 10**6:
            type(self).breaks_off -= 1
            self.close_connection = True
            body = body[: len(body) // 2]
        self._answer(206 if asked else 200, body, **headers)

    def _json(self, content: Any) -> None:
        self._answer(200, json.dumps(content).encode())

    def _answer(self, status: int, body: bytes = b"", error: str = "", **headers: str) -> None:
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[tuple[type[FakeHub], str]]:
    """The hub, whose attributes may be changed while it serves, and its address."""
    handler = type("Handler", (FakeHub,), {"files": files, "ranges": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield handler, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
