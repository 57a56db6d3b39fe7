"""``--nproc N``: the same command as N processes of this machine. ``torchrun -m abatis run ...`` does the same on several.

With ``--max-restarts`` torch's own elastic agent looks after them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from abatis.config.run_config import RunConfig
from abatis.errors import Stopped
from abatis.runs.run_name import made_up_name

PATIENCE = 30.0  # seconds for the others to end behind the first that failed
LOST = 1  # what a process ends with that another one has left alone
WAIT = 0.1  # seconds between two looks
INTERRUPTED = 130  # as in cli.py


def launch(count: int, words: Sequence[str]) -> int:
    """Run ``defense run WORDS`` as ``count`` processes; the exit code of one that failed by itself, else 0.

    SIGINT and SIGTERM are handed on, once each time they come. This imports no torch.
    """
    running = [_started(count, places, words) for places in neighbours(count)]

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


def launch_elastic(config: RunConfig, words: Sequence[str]) -> int:
    """The same under torch's elastic agent: where a process fails, all are started again and resume.

    The exit code is that of the first failure behind the last restart.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", _threads(config.nproc))
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # see processes.joined
    named = (
        words if config.name else [*words, "--name", made_up_name(config)]
    )  # all attempts share one folder
    with tempfile.TemporaryDirectory() as folder:
        agent = LaunchConfig(
            1,
            1,
            config.nproc,
            logs_specs=DefaultLogsSpecs(folder),
            run_id=Path(folder).name,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=config.max_restarts,
        )
        try:
            elastic_launch(agent, sys.executable)("-m", "abatis", "run", *named)
        except ChildFailedError as error:
            code = int(error.get_first_failure()[1].exitcode)
            return code if code > 0 else 128 - code
        except SignalException:  # by then all have ended, each in its own way
            told = (path.read_text(encoding="utf-8") for path in Path(folder).rglob("error.json"))
            return (
                Stopped.exit_code
                if any(f'"{Stopped.__name__}: ' in text for text in told)
                else INTERRUPTED
            )
    return 0


def neighbours(count: int) -> list[dict[str, str]]:
    """What so many processes of this machine find in their environments, so that they find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**shared, "RANK": str(number), "LOCAL_RANK": str(number)} for number in range(count)]


def _started(
    count: int, places: Mapping[str, str], words: Sequence[str]
) -> subprocess.Popen[bytes]:
    """One worker in a session of its own, so that a terminal's Ctrl-C reaches it once, through :func:`launch`."""
    environment = {"OMP_NUM_THREADS": _threads(count), **os.environ, **places}
    return subprocess.Popen(
        [sys.executable, "-m", "abatis", "run", *words], env=environment, start_new_session=True
    )


def _threads(count: int) -> str:
    """How many threads each of so many processes gets."""
    return str(max(1, (os.cpu_count() or 1) // count))


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
