"""Images from http addresses, politely: few at once per host, never twice, tried again when a server is busy.

Nothing here waits for ever: a file has a deadline, and a host that keeps failing is given up. What failed is not
remembered beyond one `Fetcher`, so the next run asks again. Only images are kept, told by their first bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from multitask.storage import replacing

CACHE = Path("model_training/fetched")
AT_ONCE_PER_HOST = 4
LARGEST_BYTES = 64 << 20
# A host is given up after so many files in a row that it did not answer.
FAILURES = 3
# From the first byte asked for to the last one received, tries and waits included.
DEADLINE_S = 90.0
_TRIES = 3
_REDIRECTS = 5
_BUSY = (429, 500, 502, 503, 504)
_MOVED = (301, 302, 303, 307, 308)
# How files of the kinds in `names` begin, at which byte.
_BEGINNINGS = (
    (0, b"\xff\xd8\xff"),
    (0, b"\x89PNG"),
    (0, b"GIF8"),
    (0, b"BM"),
    (8, b"WEBP"),
    (0, b"II*\0"),
    (0, b"MM\0*"),
    (4, b"ftyp"),
)


_SILENT = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)


class _Unanswered(Exception):
    """A host gave no answer, or none but that it is busy."""


class _Refused(Exception):
    """A host answered, but with no file to keep."""


class Fetcher:
    """Gets image files over http and keeps them; may be used from several threads.

    Args:
        cache: folder of what was fetched.
        timeout: seconds to wait for a server to say something.
        deadline: seconds a file may take in all.
    """

    def __init__(self, cache: Path = CACHE, timeout: float = 20.0, deadline: float = DEADLINE_S) -> None:
        self._cache, self._timeout, self._deadline = cache, timeout, deadline
        self._hosts: dict[str, threading.Semaphore] = {}
        self._failures: dict[str, int] = defaultdict(int)
        self._problem: dict[str, str] = {}
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "multitask (image fetcher)"
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(pool_maxsize=2 * AT_ONCE_PER_HOST))

    def get(self, url: str) -> bytes:
        """Return the image file at an address.

        Raises:
            OSError: it cannot be fetched, is no image, or is too large; the text says why.
        """
        path = self._cache / hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
        if path.is_file():
            return path.read_bytes()
        try:
            host = urlsplit(url).netloc
        except ValueError as error:
            raise OSError(f"{url} is no address: {error}") from None
        # Two threads must not make two of them.
        with self._hosts.setdefault(host, threading.Semaphore(AT_ONCE_PER_HOST)):
            if self._failures[host] >= FAILURES:
                reason = f"{host} gave no answer for {FAILURES} files in a row ({self._problem[host]})"
                raise OSError(f"{url} was not asked for: {reason}")
            try:
                data = self._download(url, host)
            except _Unanswered as error:
                self._failures[host] += 1
                self._problem[host] = str(error)
                raise OSError(f"{url} cannot be fetched: {error}") from None
            except (_Refused, requests.RequestException, ValueError) as error:
                self._failures[host] = 0
                problem = str(error) if isinstance(error, _Refused) else type(error).__name__
                raise OSError(f"{url} cannot be fetched: {problem}") from None
            self._failures[host] = 0
        _check_image(data, url)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
        return data

    def _download(self, url: str, host: str) -> bytes:
        end, problem, wait = time.monotonic() + self._deadline, "", 0.5
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(max(0.0, min(wait, end - time.monotonic())))
                wait *= 2
            if time.monotonic() >= end:
                break
            try:
                with _ending(end), self._ask(url, end) as response:
                    if response.status_code == 200:
                        return _read(response, end)
                    problem = f"status {response.status_code}"
                    if response.status_code not in _BUSY:
                        raise _Refused(problem)
                    asked = response.headers.get("Retry-After", "")
                    wait = max(wait, min(float(asked), 30.0)) if asked.isdecimal() else wait
            except _SILENT as error:
                problem = type(error).__name__
                if self._failures[host]:
                    break
        if time.monotonic() >= end:
            problem = f"not done after {self._deadline:g} s" + (f" ({problem})" if problem else "")
        raise _Unanswered(problem)

    def _ask(self, url: str, end: float) -> requests.Response:
        """Follow redirects, but none that leads from the outside in."""
        was_inside = None
        for _ in range(_REDIRECTS + 1):
            timeout = min(self._timeout, max(0.1, end - time.monotonic()))
            response = self._session.get(url, timeout=timeout, stream=True, allow_redirects=False)
            if response.status_code not in _MOVED or "Location" not in response.headers:
                return response
            response.close()
            was_inside = _is_inside(url) if was_inside is None else was_inside
            url = urljoin(url, response.headers["Location"])
            if not url.startswith(("http://", "https://")):
                raise _Refused(f"redirected to {url}, which is no http address")
            if not was_inside and _is_inside(url):
                raise _Refused(f"redirected to {url}, which is an address inside this network")
        raise _Refused(f"redirected more than {_REDIRECTS} times")


def _is_inside(url: str) -> bool:
    """Tell whether a host is this machine or in a private network."""
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, None)
    except OSError:
        return False
    return any(not ipaddress.ip_address(str(entry[4][0]).split("%")[0]).is_global for entry in found)


def _read(response: requests.Response, end: float) -> bytes:
    data = bytearray()
    for chunk in response.iter_content(1 << 16):
        data += chunk
        if len(data) > LARGEST_BYTES:
            raise _Refused(f"larger than {LARGEST_BYTES:,} bytes")
    if time.monotonic() >= end:
        # A body without a length looks whole where its connection was cut.
        raise requests.Timeout
    return bytes(data)


def _check_image(data: bytes, url: str) -> None:
    if not any(data[at : at + len(begin)] == begin for at, begin in _BEGINNINGS):
        raise OSError(f"{url} is no image: it begins with {data[:16]!r}")


class _Watched:
    """Makes the socket of a request known to its thread before anything is waited for."""

    def getresponse(self, *arguments: Any, **options: Any) -> Any:
        _here.sock = self.sock  # type: ignore[attr-defined]
        return super().getresponse(*arguments, **options)  # type: ignore[misc]


class _Http(_Watched, urllib3.connection.HTTPConnection):
    pass


class _Https(_Watched, urllib3.connection.HTTPSConnection):
    pass


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Https


class _Adapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        manager.pool_classes_by_scheme = self.poolmanager.pool_classes_by_scheme
        return manager


_here = threading.local()


@contextlib.contextmanager
def _ending(end: float) -> Iterator[None]:
    """Cut the connection of this thread's request at a time: one that drips never lets a read time out."""
    _here.sock = None
    holder = _here.__dict__

    def cut() -> None:
        if holder["sock"] is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(holder["sock"], socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, end - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
