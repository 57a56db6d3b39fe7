"""One writer per run folder or file: the system releases a lock when its owner dies."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from abatis.errors import UsageError
from abatis.system.files import explain_disk_errors

LOCK = ".lock"
AT_ONCE = 0.1  # seconds, enough for a second attempt where the owner ends in between
PATIENCE = 30.0  # seconds to wait for a file that another process changes
WAIT = 0.02  # seconds between two attempts
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # file systems without locks
START = 1  # where the owner's name begins: Windows lets nobody else read the byte that is locked


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the folder's lock.

    It ends with its process, however that ends, and workers do not inherit it.

    Raises:
        UsageError: another process, which is named, holds the lock; or the folder is read-only.
    """
    with _hold(folder / LOCK, folder, AT_ONCE):
        yield


def find_writer(folder: Path) -> str:
    """Who writes into a folder now, in words; empty where nobody does."""
    path = folder / LOCK
    if not path.is_file() or path.is_symlink():
        return ""
    try:
        with _make_lock(path, 0):
            return ""
    except Timeout:
        return _name_owner(_read_owner(path))
    except OSError:  # it cannot be asked: the folder is read-only, or has no locks
        return ""


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
    lock = _make_lock(path, patience, _write_owner)
    with explain_disk_errors(what):
        try:
            lock.acquire()
        except Timeout:
            raise _make_held_error(what, _read_owner(path)) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
    try:
        yield
    finally:
        with suppress(PermissionError):  # Windows removes no file that is open
            path.unlink(missing_ok=True)  # while it is held: a waiting process sees it is gone
        lock.release()


def _make_lock(
    path: Path, patience: float, on_acquired: Callable[[int], None] | None = None
) -> FileLock:
    """A lock by the system, which knows when its owner has died; it does not remove the file."""
    return FileLock(
        path,
        timeout=patience,
        mode=0o644,
        poll_interval=WAIT,
        fallback_to_soft=False,
        preserve_lock_file=True,
        on_acquired=on_acquired,
    )


def _write_owner(descriptor: int) -> None:
    """Write into a lock file, which this process holds, that it does."""
    owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{' ' * START}{owner}".encode())


def _read_owner(path: Path) -> str:
    """What the owner of a lock wrote into its file; empty where that cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(START)
            return file.read(1000).decode(errors="replace")
    except OSError:
        return ""


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
