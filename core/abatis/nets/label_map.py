"""``--label-map``: which output of a network is which class of the data, by the classes' names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from abatis.data.wnids import read_wnids
from abatis.errors import UsageError

IMAGENET = "imagenet"
SUBSETS = ("imagenet-a", "imagenet-r")
FORM = "one line a class: its name, a space, and the output, counted from 0; or a JSON table"


@dataclass(frozen=True)
class LabelMap:
    """Classes by their names, and the outputs that belong to them.

    Attributes:
        class_names: in the order of the labels.
        outputs: of each class; None where label i is output i.
        classes: the number of outputs that the network must have; None where it is not known.
    """

    class_names: tuple[str, ...]
    outputs: tuple[int, ...] | None = None
    classes: int | None = None

    def apply(self, module: nn.Module, outputs: int, name: str) -> tuple[nn.Module, str]:
        """The network with one output for each label, and a note.

        Args:
            module: the network.
            outputs: the number of its outputs.
            name: of the network, for messages.

        Raises:
            UsageError: it has too few outputs, or another number than the map is for.
        """
        wanted = self.classes or max(self.outputs or (len(self.class_names) - 1,)) + 1
        if outputs < wanted or (self.classes is not None and outputs != self.classes):
            raise UsageError(
                f"--label-map is for {wanted} outputs, and {name} has {outputs}",
                fix="leave it out, or name a network with these outputs",
            )
        if self.outputs is None:
            return module, f"labels are the network's {outputs} outputs, by the names of classes"
        count = len(self.outputs)
        return (
            SelectOutputs(module, self.outputs),
            f"the network has {outputs} outputs; only the {count} of the label map count",
        )


class SelectOutputs(nn.Module):
    """Some of the logits of a network, (B, K) to (B, k), in the order of the labels."""

    outputs: Tensor

    def __init__(self, network: nn.Module, outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("outputs", torch.tensor(outputs))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits[:, self.outputs]


def read_label_map(asked: str) -> LabelMap:
    """The label map of a name or a file.

    Args:
        asked: ``imagenet``: class folders are named by wnids, outputs are the 1,000 in sorted
            order; ``imagenet-a``, ``imagenet-r``: only the 200 outputs of these sets count; or a
            file of names and outputs.

    Raises:
        UsageError: it is neither, or the file is wrong.
    """
    if asked == IMAGENET:
        names = read_wnids()
        return LabelMap(names, None, len(names))
    if asked in SUBSETS:
        stem = asked.replace("-", "_")
        places = tuple(int(line) for line in read_wnids(f"{stem}_indices.txt"))
        return LabelMap(read_wnids(f"{stem}_synsets.txt"), places, 1000)
    table = _read_table(Path(asked).expanduser())
    outputs = tuple(table.values())
    if not table or min(outputs) < 0 or len(set(outputs)) < len(outputs):
        raise UsageError(
            f"--label-map {asked}: every class needs an output of its own, counted from 0",
            fix=FORM,
        )
    return LabelMap(tuple(table), outputs)


def _read_table(path: Path) -> Mapping[str, int]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("{"):
            table = json.loads(text)
            pairs = [(name, place) for name, place in table.items() if type(place) is int]
            lines = len(table)
        else:
            rows = [line.replace(",", " ").rsplit(None, 1) for line in text.splitlines() if line]
            pairs = [(row[0].strip(), int(row[1])) for row in rows if len(row) == 2]
            lines = len(rows)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"--label-map {path} cannot be read ({type(error).__name__})",
            where=f"it is neither a file nor one of {', '.join((IMAGENET, *SUBSETS))}",
            fix=FORM,
        ) from error
    found = dict(pairs)
    if len(found) < lines:
        raise UsageError(
            f"--label-map {path}: {lines - len(found)} of {lines} lines name no class, or one "
            "twice",
            fix=FORM,
        )
    return found
