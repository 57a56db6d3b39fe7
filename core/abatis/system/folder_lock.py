"""One writer a run folder: a lock that the system takes back when its owner dies."""

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
from abatis.system.files import disk

LOCK = ".lock"
HELD = (errno.EACCES, errno.EAGAIN)  # what POSIX allows for a lock that another process has
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # file systems that have none


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; raises UsageError naming the process that has it, or saying that nothing can be written.

    A record lock: it ends with its process, however that ends, and workers do not inherit it.
    """
    path = folder / LOCK
    with disk(folder):
        descriptor = _open(path)
    try:
        os.truncate(descriptor, 0)
        os.write(
            descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        )
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for it then sees that it is gone
        os.close(descriptor)


def _open(path: Path) -> int:
    """The lock file, open and locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                owner = os.read(descriptor, 1000).decode(errors="replace")
                os.close(descriptor)
                raise (_held(path, owner) if error.errno in HELD else error) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(
            descriptor
        )  # its owner removed it between opening and locking: there is a new one, or none


def _held(path: Path, owner: str) -> UsageError:
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
