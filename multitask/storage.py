"""Files and folders that are whole or not there: write beside, then rename."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from multitask.errors import RunError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename file or folder to `path` if the block succeeds, else remove it.

    The suffix is kept, since several writers choose their format by it. `os.replace` is atomic within a file system,
    so a reader sees the old file or the new one and a kill leaves at most a hidden `.name.*` file behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        if temporary.is_dir():
            replace_directory(temporary, path)
        else:
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def replace_directory(source: Path, target: Path) -> None:
    """Rename a directory over another; a kill in between leaves the old one beside it."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(source, target)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path, patience_s: float = 60.0) -> Iterator[None]:
    """Hold the lock of a folder while the block runs; the lock of a process that was killed is free again.

    Raises:
        RunError: somebody else holds it for longer than our patience.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + patience_s
    # The folder itself is locked: a lock file would have to stay for ever.
    handle = os.open(folder, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise RunError(
                        f"in use by another process for {patience_s:g} s", where=str(folder), fix="Wait for it to end."
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(handle)


def sync(path: Path) -> None:
    """Bring a file, or all of a folder, to the disk, so that a rename never shows what a power cut would empty."""
    for entry in [*(path.rglob("*") if path.is_dir() else ()), path]:
        handle = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
