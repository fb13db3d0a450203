"""A page that is served on this machine alone, and made anew when the files of its runs change."""

import hashlib
import http.server
import os
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from jaxcnn.errors import InputError

HOST = "127.0.0.1"
NOT_LOOKED_INTO = {"checkpoints", "tb", "profile", "brought"}
"""Folders of a run of which a page shows nothing."""
SUFFIXES = (".json", ".jsonl", ".npz", ".png")

SCRIPT = """
let shown = "";
const places = "details, .scroll, pre, summary";
async function look() {
  const now = await (await fetch("version")).text();
  if (now === shown) return;
  const text = await (await fetch("./")).text();
  shown = now;
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const name = (e) => e.localName + (e.ariaLabel || e.querySelector("summary")?.textContent
    || e.textContent).replace(/[0-9]+/g, "");
  const before = new Map();
  for (const e of document.querySelectorAll(places))
    before.set(name(e), {open: e.open, left: e.scrollLeft, focus: e === document.activeElement});
  const [x, y] = [scrollX, scrollY];
  document.querySelector("main").replaceWith(fresh.querySelector("main"));
  for (const e of document.querySelectorAll(places)) {
    const was = before.get(name(e));
    if (!was) continue;
    if (was.open) e.open = true;
    e.scrollLeft = was.left;
    if (was.focus) e.focus({preventScroll: true});
  }
  scrollTo(x, y);
}
setInterval(() => look().catch(() => {}), 1000);
"""
"""Puts the newest page in the place of the shown one, where it is scrolled to and what is open."""


def version(folder: Path) -> str:
    """Returns a digest of which files lie in a folder, of how many bytes and since when."""
    seen = hashlib.sha256()
    for path, inside, names in os.walk(folder):
        inside[:] = sorted(set(inside) - NOT_LOOKED_INTO)
        for name in sorted(names):
            if name.endswith(SUFFIXES):
                try:
                    found = Path(path, name).stat()
                except OSError:  # it has gone since
                    continue
                seen.update(
                    f"{path}/{name} {found.st_size} {found.st_mtime_ns}\n".encode(
                        errors="surrogateescape"
                    )
                )
    return seen.hexdigest()


class Served:
    """A page that is made anew where it is asked for after a change.

    Args:
        folder: what the page is made of.
        build: makes it.
    """

    def __init__(self, folder: Path, build: Callable[[], str]) -> None:
        self.folder, self._build = folder, build
        self._lock = threading.Lock()
        self._version, self._page = "", ""
        self._due = 0.0

    def version(self) -> str:
        """Returns the version of the page that would be given."""
        return version(self.folder) if time.monotonic() >= self._due else self._version

    def page(self) -> str:
        """Returns the page; the former one, where files are just being written.

        It is made for a tenth of the time at most, since runs train on the same processor.
        """
        with self._lock:
            now, began = self.version(), time.monotonic()
            if now != self._version:
                try:
                    self._page = self._build()
                    self._version = now
                except (InputError, OSError):
                    if not self._page:
                        raise
                self._due = time.monotonic() + 9 * (time.monotonic() - began)
            return self._page


def server(served: Served, port: int) -> http.server.ThreadingHTTPServer:
    """Returns a server of the page, which others on this machine can reach, and no other machine.

    Raises:
        InputError: the port is taken, or may not be used.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # A page of elsewhere, whose name leads here, is answered nothing.
            host = self.headers.get("Host", "").partition(":")[0]
            if host not in (HOST, "localhost") or self.path not in ("/", "/version"):
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            try:
                text = served.page() if self.path == "/" else served.version()
            except (InputError, OSError):
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
                return
            content, kind = text.encode(), "html" if self.path == "/" else "plain"
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", f"text/{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Says nothing: the terminal is the command's."""

    try:
        return http.server.ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"--port {port}: cannot be served on ({why}); give another") from error
