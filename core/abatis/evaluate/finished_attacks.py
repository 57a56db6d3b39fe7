"""What a killed evaluation keeps: the verdicts of every attack that was finished, in one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from abatis.api.threat import Threat
from abatis.evaluate.judge import Split, Verdicts
from abatis.nets.digest import weights_digest
from abatis.system import distributed
from abatis.system.files import disk, write_text

FORMAT = 2


class FinishedAttacks:
    """Finished attacks by name, for one question; a file about another question is not believed.

    ``path`` None keeps nothing. Only the first of several processes reads and writes.
    """

    def __init__(self, path: Path | None, question: Mapping[str, object]) -> None:
        self.path, self.question = path, {"format": FORMAT, **question}
        self._known: dict[str, dict[str, Any]] = {}
        if path is not None:
            self._known = distributed.first_says(self._read(path))

    def once(self, name: str, attack: Callable[[], Verdicts]) -> Verdicts:
        """The verdicts of an attack, from the file where it was finished before."""
        if name in self._known:
            known = self._known[name]
            flags = torch.tensor([mark == "1" for mark in known["robust"]])
            return Verdicts(name, flags, known["facts"], tuple(known["warnings"]), known["stray"])
        verdicts = attack()
        self._keep(verdicts)
        return verdicts

    def _keep(self, verdicts: Verdicts) -> None:
        if self.path is None:
            return
        marks = "".join("1" if flag else "0" for flag in verdicts.robust.tolist())
        kept = {
            "robust": marks,
            "facts": verdicts.facts,
            "warnings": verdicts.warnings,
            "stray": verdicts.stray,
        }
        self._known[verdicts.name] = kept
        if distributed.rank() == 0:
            with disk(self.path):
                write_text(
                    self.path,
                    json.dumps({"question": self.question, "attacks": self._known}) + "\n",
                )

    def _read(self, path: Path) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return dict(found["attacks"]) if found["question"] == self.question else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def question(module: nn.Module, split: Split, threat: Threat, seed: int) -> dict[str, object]:
    """What an evaluation asks, in plain types: equal questions have equal answers, whatever the batch size."""
    return {
        "weights": weights_digest(module),
        "data": data_digest(split),
        "n": len(split),
        "threat": {key: value for key, value in asdict(threat).items() if key != "text"},
        "seed": seed,
        "versions": {"torch": str(torch.__version__)}
        | {name: version(name) for name in ("abatis", "pyautoattack")},
    }


def data_digest(split: Split) -> str:
    """sha256 of all images and labels, in order."""
    digest = hashlib.sha256()
    for batch in split.eval_batches(256):
        digest.update(batch.x.cpu().contiguous().numpy().tobytes())
        digest.update(batch.y.cpu().numpy().tobytes())
    return digest.hexdigest()
