"""The blocks of a network, which are its natural shards."""

from __future__ import annotations

from torch import nn


def find_blocks(module: nn.Module) -> list[nn.Module]:
    """The residual or transformer blocks of a network.

    They are the innermost parts of its sequences and lists that have parts themselves.
    """
    parts = [
        part
        for sequence in module.modules()
        if isinstance(sequence, nn.Sequential | nn.ModuleList)
        for part in sequence.children()
        if any(True for _ in part.children()) and any(True for _ in part.parameters())
    ]
    inner = {id(part) for part in parts}
    found = [
        part
        for part in parts
        if not any(id(other) in inner for other in part.modules() if other is not part)
    ]
    return list(dict.fromkeys(found))
