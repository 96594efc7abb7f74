"""Images from http addresses, politely: few at once per host, never twice, tried again when a server is busy."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import defaultdict
from pathlib import Path
from urllib.parse import urlsplit

import requests

from multitask.storage import replacing

CACHE = Path("model_training/fetched")
AT_ONCE_PER_HOST = 4
LARGEST_BYTES = 64 << 20
_TRIES = 3
_BUSY = (429, 500, 502, 503, 504)


class Fetcher:
    """Gets files over http and keeps them; may be used from several threads.

    Args:
        cache: folder of what was fetched.
        timeout: seconds to wait for a server.
    """

    def __init__(self, cache: Path = CACHE, timeout: float = 20.0) -> None:
        self._cache, self._timeout = cache, timeout
        self._hosts: dict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(AT_ONCE_PER_HOST))
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "multitask (image fetcher)"

    def get(self, url: str) -> bytes:
        """Return the file at an address.

        Raises:
            OSError: it cannot be fetched, or is too large; the text says why.
        """
        path = self._cache / hashlib.sha256(url.encode()).hexdigest()
        if path.is_file():
            return path.read_bytes()
        with self._hosts[urlsplit(url).netloc]:
            data = self._download(url)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
        return data

    def _download(self, url: str) -> bytes:
        problem, wait = "", 0.5
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(wait)
                wait *= 2
            try:
                with self._session.get(url, timeout=self._timeout, stream=True) as response:
                    if response.status_code == 200:
                        return _read(response, url)
                    problem = f"status {response.status_code}"
                    if response.status_code not in _BUSY:
                        break
                    asked = response.headers.get("Retry-After", "")
                    wait = max(wait, min(float(asked), 30.0)) if asked.isdigit() else wait
            except requests.RequestException as error:
                problem = type(error).__name__
        raise OSError(f"{url} cannot be fetched: {problem}")


def _read(response: requests.Response, url: str) -> bytes:
    data = bytearray()
    for chunk in response.iter_content(1 << 16):
        data += chunk
        if len(data) > LARGEST_BYTES:
            raise OSError(f"{url} is larger than {LARGEST_BYTES:,} bytes")
    return bytes(data)
