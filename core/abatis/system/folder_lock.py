"""One writer per run folder or file: the system releases a lock when its owner dies."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from abatis.errors import UsageError
from abatis.system.files import explain_disk_errors

LOCK = ".lock"
PATIENCE = 30.0  # seconds to wait for a file that another process changes
WAIT = 0.02  # seconds between two attempts
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
    with _hold(folder / LOCK, folder, 0.0):
        yield


def find_writer(folder: Path) -> str:
    """Who writes into a folder now, in words; empty where nobody does.

    Not for a folder that this process has locked: asking would give up its lock.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return ""
    except OSError as error:
        return _name_owner(_read_owner(descriptor)) if error.errno in HELD else ""
    finally:
        os.close(descriptor)


@contextmanager
def lock_file(path: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of one file, ``NAME.lock`` beside it; wait while another process has it.

    Args:
        path: The file; its lock is gone afterwards.
        patience: Seconds to wait at most.

    Raises:
        UsageError: another process, which is named, holds the lock for longer; or the folder is
            read-only.
    """
    with _hold(path.with_name(f"{path.name}{LOCK}"), path, patience):
        yield


@contextmanager
def _hold(path: Path, what: Path, patience: float) -> Iterator[None]:
    """Hold a lock file for what it stands for."""
    with explain_disk_errors(what):
        descriptor = _open(path, what, time.monotonic() + patience)
    try:
        os.truncate(descriptor, 0)
        os.write(
            descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        )
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held, so that a waiting process sees it is gone
        os.close(descriptor)


def _open(path: Path, what: Path, deadline: float) -> int:
    """Open and lock the lock file; returns its descriptor."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                owner = _read_owner(descriptor)
                os.close(descriptor)
                if error.errno in HELD and time.monotonic() < deadline:
                    time.sleep(WAIT)
                    continue
                raise (_make_held_error(what, owner) if error.errno in HELD else error) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        # The owner removed the file between our opening and locking it: try again.
        os.close(descriptor)


def _read_owner(descriptor: int) -> str:
    """What the owner of a lock wrote into its file."""
    return os.read(descriptor, 1000).decode(errors="replace")


def _name_owner(owner: str) -> str:
    """The process that a lock file names."""
    try:
        found = json.loads(owner)
        return f"process {found['pid']} on {found['host']}"
    except (ValueError, LookupError, TypeError):
        return "another process"


def _make_held_error(what: Path, owner: str) -> UsageError:
    who = _name_owner(owner)
    if not what.is_dir():
        return UsageError(
            f"{who} is writing this file", where=str(what), fix="wait for it or stop it"
        )
    return UsageError(
        f"{who} is writing this run",
        where=str(what),
        fix="wait for it or stop it, or choose another --name",
    )
