"""One writer per run folder: a lock that the operating system releases when its owner dies."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from abatis.errors import UsageError
from abatis.system.files import explain_disk_errors

LOCK = ".lock"
HELD = (errno.EACCES, errno.EAGAIN)  # what POSIX allows for a lock that another process has
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # file systems without locks


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the folder's lock.

    It is a record lock: it ends with its process, however that ends, and workers do not inherit
    it.

    Raises:
        UsageError: another process, which is named, holds the lock; or the folder is read-only.
    """
    path = folder / LOCK
    with explain_disk_errors(folder):
        descriptor = _open(path)
    try:
        os.truncate(descriptor, 0)
        os.write(
            descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        )
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held, so that a waiting process sees it is gone
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open and lock the lock file; returns its descriptor."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                owner = os.read(descriptor, 1000).decode(errors="replace")
                os.close(descriptor)
                raise (_make_held_error(path, owner) if error.errno in HELD else error) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        # The owner removed the file between our opening and locking it: try again.
        os.close(descriptor)


def _make_held_error(path: Path, owner: str) -> UsageError:
    try:
        found = json.loads(owner)
        who = f"process {found['pid']} on {found['host']}"
    except (ValueError, LookupError, TypeError):
        who = "another process"
    return UsageError(
        f"{who} is writing this run",
        where=str(path.parent),
        fix="wait for it or stop it, or choose another --name",
    )
