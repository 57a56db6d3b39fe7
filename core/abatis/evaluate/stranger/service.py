"""The process of the stranger: it builds the network and answers questions about images.

Where the network is on the CPU and the system can fork, every conversation is led by a child of
this process, which ends after it: each begins with a network that was never asked anything.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from abatis.errors import summarise_error
from abatis.evaluate.stranger.messages import read_message, write_message
from abatis.evaluate.stranger.origin import Origin, unpickle_module
from abatis.evaluate.stranger.watch import FileWatch, fingerprint_functions, list_replaced

HOMES = ("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME")
FORGETS = "forgets"
"""Does every conversation begin with a network that was never asked anything?"""


class Service:
    """One network, and the conversation about it.

    Args:
        module: the network.
        watch: of this process.
        start: the first message: ``device``, ``threads``, ``folder``, ``shape`` and ``functions``.
        functions: the code of the key functions before the network was built.
    """

    def __init__(
        self, module: nn.Module, watch: FileWatch, start: Mapping[str, Any], functions: Any
    ) -> None:
        self.device = torch.device(start["device"])
        self.module = module.to(self.device).eval().requires_grad_(False)
        self.watch, self.threads, self.functions = watch, int(start["threads"]), functions
        self.forgets = self.device.type == "cpu" and hasattr(os, "fork")

    def warm_up(self, blank: Tensor) -> None:
        """Ask once: what a network prepares on disk in its first forward is not noted."""
        child = os.fork() if self.forgets else 0
        if child:
            os.waitpid(child, 0)
            return
        with suppress(BaseException), torch.no_grad():  # it is said when a question is answered
            self.module(blank)
        if self.forgets:
            os._exit(0)

    def serve(self, reader: BinaryIO, writer: BinaryIO) -> None:
        """Lead one conversation after the other until the stream ends."""
        while (message := read_message(reader)) is not None:
            if not self.forgets:
                self.lead(message, reader, writer)
                continue
            if message.get("gradient"):
                load_gradients()
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                continue
            try:
                torch.set_num_threads(self.threads)
                self.lead(message, reader, writer)
            finally:
                os._exit(0)

    def lead(self, message: dict[str, Any] | None, reader: BinaryIO, writer: BinaryIO) -> None:
        """Answer questions until one of them is the last of its conversation."""
        while message is not None:
            try:
                answer = self.answer(message, reader, writer)
            except Exception as error:  # whatever the network raises
                answer = {"error": summarise_error(error)}
            if not answer:  # nobody wants the gradient any more
                return
            answer |= {
                "seen": list(self.watch.seen),
                "replaced": list_replaced(self.functions, fingerprint_functions()),
            }
            write_message(writer, answer)
            if message["last"]:
                return
            message = read_message(reader)

    def answer(
        self, message: Mapping[str, Any], reader: BinaryIO, writer: BinaryIO
    ) -> dict[str, Any]:
        """Compute the logits of ``x`` in batches of ``size``, in the mode that is asked for.

        Where a ``gradient`` is wanted, the logits are sent, the gradient of the logits is read,
        and the answer is that of the images; it is empty where no gradient comes.
        """
        self.module.requires_grad_(bool(message.get("parameters")))
        wanted, size = bool(message.get("gradient")), int(message["size"])
        parts: list[tuple[Tensor, Tensor]] = []
        with torch.set_grad_enabled(wanted or bool(message.get("recorded"))):
            for x in message["x"].split(size):
                image = x.to(self.device)
                if wanted or message.get("requires_grad"):
                    image = image.requires_grad_()
                parts.append((image, self.watch.collect(partial(self.ask, image))))
        logits = torch.cat([one for _, one in parts])
        if not wanted:
            return {"logits": logits.detach().float().cpu()}
        write_message(writer, {"logits": logits.detach().float().cpu()})
        returned = read_message(reader)
        if returned is None or returned.get("gradient") is None:
            return {}
        return {"gradient": self.differentiate(parts, logits, returned["gradient"])}

    def ask(self, image: Tensor) -> Tensor:
        """The logits of some images, without an autocast."""
        logits: Tensor = self.module(image)
        return logits

    def differentiate(
        self, parts: list[tuple[Tensor, Tensor]], logits: Tensor, gradient: Tensor
    ) -> Tensor:
        """The gradient of the images, (B, C, H, W) on the CPU; zero where there is none."""
        images = [image for image, _ in parts]
        found: Any = [None] * len(images)
        if logits.requires_grad:
            try:
                found = torch.autograd.grad(logits, images, gradient.to(logits), allow_unused=True)
            except RuntimeError:  # no gradient reaches the images
                found = [None] * len(images)
        return (
            torch.cat(
                [
                    torch.zeros_like(image) if one is None else one
                    for image, one in zip(images, found, strict=True)
                ]
            )
            .detach()
            .cpu()
        )


def start_service(start: Mapping[str, Any], module: nn.Module | None = None) -> Service:
    """Build the network of the first message, and leave for an empty folder.

    Args:
        start: the first message.
        module: the network, where this process has it already.
    """
    torch.set_num_threads(1)  # what has no threads can be forked
    gc.disable()  # a collection would touch, and so copy, all memory after every fork
    functions = fingerprint_functions()
    watch = FileWatch(float(start["since"]))
    built = watch.collect(lambda: _build(start)) if module is None else module
    watch.seen = {text: None for text in watch.seen if text.startswith("reads")}
    leave_for(Path(start["folder"]))
    service = Service(built, watch, start, functions)
    blank = torch.zeros(start["shape"], device=service.device)
    service.warm_up(blank)
    return service


def load_gradients() -> None:
    """Take one gradient of nothing: torch loads hundreds of modules for the first one.

    Without this, every child that takes gradients would load them anew, which takes seconds.
    """
    blank = torch.zeros(1, requires_grad=True)
    torch.autograd.grad(2 * blank, blank, torch.ones(1))


def _build(start: Mapping[str, Any]) -> nn.Module:
    if start.get("origin") is not None:
        return Origin(start["origin"]["function"], start["origin"]["arguments"]).build()
    return unpickle_module(bytes(start["pickle"].numpy().tobytes()))


def leave_for(folder: Path) -> None:
    """Make an empty folder the working directory, the home and the folder of temporary files."""
    os.chdir(folder)
    for name in HOMES:
        os.environ[name] = str(folder)
    tempfile.tempdir = None


def main() -> int:
    """Serve on the standard streams; what the network prints goes to the errors."""
    reader, writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    start = read_message(reader)
    if start is None:
        return 1
    try:
        service = start_service(start)
    except BaseException as error:
        write_message(writer, {"error": summarise_error(error)})
        return 1
    replaced = list_replaced(service.functions, fingerprint_functions())
    write_message(
        writer,
        {
            FORGETS: service.forgets,
            "seen": list(service.watch.seen),
            "replaced": replaced,
            "functions": service.functions,
        },
    )
    service.serve(reader, writer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
