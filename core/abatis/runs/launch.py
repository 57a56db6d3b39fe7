"""``--nproc N``: the same command as N processes on this machine.

``torchrun -m abatis run ...`` does so on several machines. With ``--max-restarts``, torch's
elastic agent restarts processes that fail.
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
from abatis.errors import INTERRUPTED, Stopped
from abatis.runs.run_name import make_up_name
from abatis.system.cores import count_cores
from abatis.system.signals import choose_signals

PATIENCE = 30.0  # seconds that the others have to end after the first one failed
LOST = 1  # exit code of a process that lost another one
WAIT = 0.1  # seconds between two looks


def launch(count: int, words: Sequence[str]) -> int:
    """Run ``defense run WORDS`` as ``count`` processes.

    SIGINT, SIGTERM and SIGHUP are passed on to all of them. This imports no torch.

    Returns:
        The exit code of the first process that failed for a reason of its own, else 0.
    """
    running = [_start(count, variables, words) for variables in make_environments(count)]

    def pass_on(number: int, frame: FrameType | None) -> None:
        for worker in running:
            if worker.poll() is None and os.name != "nt":  # there, the console reaches all
                worker.send_signal(number)

    former = {number: signal.signal(number, pass_on) for number in choose_signals()}
    try:
        return _wait_for_all(running)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        for worker in running:
            worker.kill()


def launch_elastic(config: RunConfig, words: Sequence[str]) -> int:
    """Run ``config.nproc`` processes under torch's elastic agent.

    Where one process fails, all are started again and resume.

    Args:
        config: the options that ``words`` say.
        words: the command line behind ``defense run``.

    Returns:
        The exit code of the first failure after the last restart, else 0.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", _count_threads(config.nproc))
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # see distributed.connect
    # All attempts share one folder.
    named = words if config.name else [*words, "--name", make_up_name(config)]
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
        except SignalException:  # by then all processes have ended
            return Stopped.exit_code if _did_stop(Path(folder)) else INTERRUPTED
    return 0


def _did_stop(logs: Path) -> bool:
    """Did a process end because it saved and stopped? The agent keeps what each one raised."""
    raised = (path.read_text(encoding="utf-8") for path in logs.rglob("error.json"))
    return any(f'"{Stopped.__name__}: ' in text for text in raised)


def make_environments(count: int) -> list[dict[str, str]]:
    """Return the environment variables by which ``count`` processes find each other, for each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count))
    return [{**shared, "RANK": str(number), "LOCAL_RANK": str(number)} for number in range(count)]


def _start(
    count: int, variables: Mapping[str, str], words: Sequence[str]
) -> subprocess.Popen[bytes]:
    """Start one process, in its own session: Ctrl-C then reaches it only through :func:`launch`."""
    environment = {"OMP_NUM_THREADS": _count_threads(count), **os.environ, **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "abatis", "run", *words], env=environment, start_new_session=True
    )


def _count_threads(count: int) -> str:
    """The number of threads that each of ``count`` processes gets."""
    return str(max(1, count_cores() // count))


def _wait_for_all(running: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended, for a limited time after the first failure; the exit code."""
    while all(worker.poll() in (None, 0) for worker in running):
        if all(worker.poll() == 0 for worker in running):
            return 0
        time.sleep(WAIT)
    deadline = time.monotonic() + PATIENCE
    while any(worker.poll() is None for worker in running) and time.monotonic() < deadline:
        time.sleep(WAIT)
    ended = [worker.poll() for worker in running]
    _name_killed(ended)
    failed = [code for code in ended if code]
    code = next((code for code in failed if code != LOST), LOST)
    return code if code > 0 else 128 - code


def _name_killed(ended: Sequence[int | None]) -> None:
    """Say which processes a signal ended, as those cannot say it themselves."""
    killed = [number for number, code in enumerate(ended) if code is not None and code < 0]
    if not killed:
        return
    numbers = ", ".join(map(str, killed))
    names = {_name_signal(-(ended[number] or 0)) for number in killed}
    print(
        f"error: process {numbers} of {len(ended)} was killed by {', '.join(sorted(names))}",
        "  where: this machine; SIGKILL is often the system, short of memory: see dmesg",
        "  fix:   run the same command with --resume and the --name of its run folder;"
        " with less memory, --accumulate",
        sep="\n",
        file=sys.stderr,
    )


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
