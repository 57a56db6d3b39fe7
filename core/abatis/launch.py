"""``--nproc N``: the same command as N processes of this machine. ``torchrun -m abatis run ...`` does the same on several."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

PATIENCE = 30.0  # seconds for the others to end behind the first that failed
LOST = 1  # what a process ends with that another one has left alone
WAIT = 0.1  # seconds between two looks


def launch(count: int, words: Sequence[str]) -> int:
    """Run ``defense run WORDS`` as ``count`` processes; the exit code of one that failed by itself, else 0.

    SIGINT and SIGTERM are handed on, once each time they come. Nothing here imports torch.
    """
    port = _free_port()
    running = [_started(count, number, port, words) for number in range(count)]

    def pass_on(number: int, frame: FrameType | None) -> None:
        for worker in running:
            if worker.poll() is None:
                worker.send_signal(number)

    former = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _ended(running)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        for worker in running:
            worker.kill()


def _started(count: int, number: int, port: int, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """One worker in a session of its own, so that a terminal's Ctrl-C reaches it once, through :func:`launch`."""
    places = {"WORLD_SIZE": count, "RANK": number, "LOCAL_RANK": number, "MASTER_PORT": port}
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    told = {name: str(value) for name, value in places.items()}
    environment = {**os.environ, **told, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": threads}
    return subprocess.Popen([sys.executable, "-m", "abatis", "run", *words], env=environment, start_new_session=True)


def _ended(running: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all; behind the first failure the others have some patience, then they are ended."""
    while all(worker.poll() in (None, 0) for worker in running):
        if all(worker.poll() == 0 for worker in running):
            return 0
        time.sleep(WAIT)
    deadline = time.monotonic() + PATIENCE
    while any(worker.poll() is None for worker in running) and time.monotonic() < deadline:
        time.sleep(WAIT)
    failed = [code for worker in running if (code := worker.poll())]
    code = next((code for code in failed if code != LOST), LOST)
    return code if code > 0 else 128 - code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
