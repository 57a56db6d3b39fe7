"""The other side of the stranger's process: starts it, asks it, and stands in for its network."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from abatis.errors import summarise_error
from abatis.evaluate.request import EvaluationRequest
from abatis.evaluate.stranger.messages import read_message, write_message
from abatis.evaluate.stranger.origin import pickle_module
from abatis.evaluate.stranger.service import FORGETS, start_service
from abatis.evaluate.stranger.watch import fingerprint_functions, list_replaced
from abatis.system import distributed

PATIENCE = 900.0  # seconds until a process counts as one that does not answer
CHUNK = 1 << 24  # numbers of images that are sent at a time


class StrangerFailed(Exception):
    """The stranger cannot be asked, or not any more; the text says why."""


class Stranger:
    """A network in another process.

    Args:
        how: where its network comes from, in words.
        reader: the answers.
        writer: the questions.
        process: its number.

    Attributes:
        seen: what the network did besides computing, in words.
        replaced: functions of torch and the evaluation that the network's code replaced.
        forgets: does every conversation begin with a network that was never asked anything?
    """

    def __init__(self, how: str, reader: BinaryIO, writer: BinaryIO, process: int) -> None:
        self.how, self.reader, self.writer, self.process = how, reader, writer, process
        self.seen: dict[str, None] = {}
        self.replaced: dict[str, None] = {}
        self.forgets = False
        self.ready = False
        self.waiting = False  # does it wait for a gradient?
        self.conversations = 0

    def greet(self) -> None:
        """Wait until the network is built. Raises StrangerFailed."""
        if self.ready:
            return
        told = self.receive()
        self.forgets, self.ready = bool(told[FORGETS]), True
        own = list_replaced(told["functions"], fingerprint_functions())
        self.replaced |= dict.fromkeys(own)

    def ask(self, x: Tensor, size: int, **mode: bool) -> Tensor:
        """Ask for the logits of images, in one conversation.

        Args:
            x: (M, C, H, W).
            size: images in a batch.
            mode: ``recorded``: gradients are recorded; ``requires_grad``: the images require one;
                ``parameters``: the parameters do.

        Returns:
            (M, K) on the CPU.

        Raises:
            StrangerFailed: it gives no answer.
        """
        self.greet()
        at_once = max(1, CHUNK // (x[0].numel() * size)) * size
        parts = x.split(at_once)
        found = []
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            self.send({"x": part.detach().cpu(), "size": size, "last": last, **mode})
            found.append(self.receive()["logits"])
        return torch.cat(found)

    def begin(self, x: Tensor) -> tuple[Tensor, int]:
        """Ask for logits of which the gradient will be wanted.

        Returns:
            The logits, (B, K) on the CPU, and the number of the conversation.

        Raises:
            StrangerFailed: it gives no answer.
        """
        self.greet()
        self.send({"x": x.detach().cpu(), "size": len(x), "gradient": True, "last": True})
        logits = self.receive()["logits"]
        self.waiting = True
        return logits, self.conversations

    def differentiate(self, x: Tensor, gradient: Tensor, number: int) -> Tensor:
        """Return the gradient of the images from that of the logits, on the CPU.

        Raises:
            StrangerFailed: it gives no answer.
        """
        if not (self.waiting and number == self.conversations):
            self.begin(x)
        self.waiting = False
        self._write({"gradient": gradient.detach().cpu()})
        found: Tensor = self.receive()["gradient"]
        return found

    def send(self, message: Mapping[str, Any]) -> None:
        """Begin a conversation, or go on with it. Raises StrangerFailed."""
        if self.waiting:
            self.waiting = False
            self._write({"gradient": None})
        self.conversations += 1
        self._write(message)

    def _write(self, message: Mapping[str, Any]) -> None:
        try:
            write_message(self.writer, message)
        except OSError as error:
            raise StrangerFailed("its process has ended") from error

    def receive(self) -> dict[str, Any]:
        """Read one answer. Raises StrangerFailed."""
        if not select.select([self.reader], [], [], PATIENCE)[0]:
            raise StrangerFailed("its process stopped responding")
        answer = read_message(self.reader)
        if answer is None:
            raise StrangerFailed("its process has ended")
        if "error" in answer:
            raise StrangerFailed(str(answer["error"]))
        self.seen |= dict.fromkeys(answer.get("seen", ()))
        self.replaced |= dict.fromkeys(answer.get("replaced", ()))
        return answer

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            os.kill(self.process, signal.SIGKILL)
        for stream in (self.reader, self.writer):
            with suppress(OSError):
                stream.close()


@contextmanager
def meet_stranger(module: nn.Module, request: EvaluationRequest) -> Iterator[Stranger | str]:
    """Start the process before the network is asked for the first time.

    Yields:
        The stranger, or why there is none.
    """
    if distributed.rank() > 0:
        yield "the first process asks it"
        return
    if os.name == "nt":  # select() takes no pipes
        yield "this system cannot wait for another process's answer"
        return
    folder = Path(tempfile.mkdtemp(prefix="abatis-stranger-"))
    found: Stranger | str
    try:
        try:
            found = _start(module, request, folder)
        except OSError as error:
            found = summarise_error(error)
        try:
            yield found
        finally:
            if isinstance(found, Stranger):
                found.close()
                with suppress(ChildProcessError):
                    os.waitpid(found.process, 0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(module: nn.Module, request: EvaluationRequest, folder: Path) -> Stranger | str:
    first = next(iter(request.points.eval_batches(1)))
    start: dict[str, Any] = {
        "device": str(request.device),
        "threads": torch.get_num_threads(),
        "folder": str(folder),
        "shape": list(first.x.shape),
        "since": time.time(),
    }
    if request.origin is not None:
        origin = {"function": request.origin.function, "arguments": dict(request.origin.arguments)}
        return _start_program({**start, "origin": origin}, "built again")
    pickled = pickle_module(module)
    if pickled is not None:
        data = torch.frombuffer(bytearray(pickled), dtype=torch.uint8)
        return _start_program({**start, "pickle": data}, "a copy")
    if request.device.type == "cpu" and hasattr(os, "fork"):
        return _fork(module, start)
    return "it can be neither built again nor copied into another process"


def _start_program(start: Mapping[str, Any], how: str) -> Stranger:
    path = os.pathsep.join(str(Path(place).absolute()) for place in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "TORCHDYNAMO_DISABLE": "1"}
    program = [sys.executable, "-m", "abatis.evaluate.stranger.service"]
    process = subprocess.Popen(
        program,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.returncode = 0  # it is waited for by its number
    stranger = Stranger(how, process.stdout, process.stdin, process.pid)  # type: ignore[arg-type]
    with suppress(StrangerFailed):  # it is said when the first question is asked
        stranger.send(start)
    return stranger


def _fork(module: nn.Module, start: Mapping[str, Any]) -> Stranger:
    """A fork of this process: what it knows of before the evaluation, the stranger knows too."""
    questions, answers = os.pipe(), os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, which this child does not use
        child = os.fork()
    if child:
        os.close(questions[0])
        os.close(answers[1])
        reader, writer = os.fdopen(answers[0], "rb"), os.fdopen(questions[1], "wb")
        return Stranger("a fork of this process", reader, writer, child)
    try:
        os.setsid()
        os.close(questions[1])
        os.close(answers[0])
        with open(os.devnull, "r+b") as nothing:
            for stream in (0, 1, 2):
                os.dup2(nothing.fileno(), stream)
        serve_fork(module, start, os.fdopen(questions[0], "rb"), os.fdopen(answers[1], "wb"))
    finally:
        os._exit(0)


def serve_fork(
    module: nn.Module, start: Mapping[str, Any], reader: BinaryIO, writer: BinaryIO
) -> None:
    """What the forked process does."""
    service = start_service(start, module)
    seen = list(service.watch.seen)
    functions = service.functions
    write_message(
        writer,
        {FORGETS: service.forgets, "seen": seen, "replaced": [], "functions": functions},
    )
    service.serve(reader, writer)


class FreshNetwork(nn.Module):
    """The stranger's network as a module: every forward asks a copy that was never asked before.

    Only for strangers that forget. Gradients are the stranger's, too.
    """

    def __init__(self, stranger: Stranger) -> None:
        super().__init__()
        self.stranger = stranger

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K)."""
        if torch.is_grad_enabled() and x.requires_grad:
            logits: Tensor = _Asked.apply(x, self.stranger)  # type: ignore[no-untyped-call]
        else:
            logits = self.stranger.ask(x, max(1, len(x))).to(x.device)
        return logits


class _Asked(torch.autograd.Function):
    """One forward and backward of the stranger's network, in one conversation.

    The conversation is repeated where another question came between them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, stranger: Stranger) -> Tensor:
        ctx.stranger = stranger
        ctx.save_for_backward(x)
        logits, ctx.number = stranger.begin(x)
        return logits.to(x.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        found = ctx.stranger.differentiate(x, gradient, ctx.number)
        return found.to(x.device), None
