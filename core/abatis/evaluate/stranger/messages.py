"""Messages to and from the process of the stranger: tables of plain types and tensors."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch

LENGTH = struct.Struct("<Q")


def write_message(stream: BinaryIO, message: Mapping[str, Any]) -> None:
    """Write one message: its length, and what torch.save makes of it."""
    buffer = io.BytesIO()
    torch.save(dict(message), buffer)
    stream.write(LENGTH.pack(buffer.tell()) + buffer.getvalue())
    stream.flush()


def read_message(stream: BinaryIO) -> dict[str, Any] | None:
    """Read one message; None at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = stream.read(length)
    if len(data) < length:
        return None
    message: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True)
    return message
