"""The verdicts of finished attacks, kept in a file so that a killed evaluation can resume."""

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
from abatis.evaluate.judge import Points, Verdicts
from abatis.nets.digest import weights_digest
from abatis.system import distributed
from abatis.system.files import explain_disk_errors, write_text

FORMAT = 2


class FinishedAttacks:
    """Finished attacks by name, for one question; a file about another question is ignored.

    Of several processes only the first reads and writes.

    Args:
        path: the file; None keeps nothing.
        question: what is asked, in plain types; see :func:`describe_question`.
    """

    def __init__(
        self, path: Path | None = None, question: Mapping[str, object] | None = None
    ) -> None:
        self.path, self.question = path, {"format": FORMAT, **(question or {})}
        self._known: dict[str, dict[str, Any]] = {}
        if path is not None:
            self._known = distributed.first_says(self._read(path))

    def get_or_run(self, name: str, attack: Callable[[], Verdicts]) -> Verdicts:
        """Return the verdicts of an attack, which runs only if it did not finish before."""
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
            content = {"question": self.question, "attacks": self._known}
            with explain_disk_errors(self.path):
                write_text(self.path, json.dumps(content) + "\n")

    def _read(self, path: Path) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return dict(found["attacks"]) if found["question"] == self.question else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def describe_question(
    module: nn.Module, points: Points, threat: Threat, seed: int
) -> dict[str, object]:
    """Return, in plain types, what decides the verdicts of an attack: not the batch size."""
    return {
        "weights": weights_digest(module),
        "data": digest_points(points),
        "n": len(points),
        "threat": {key: value for key, value in asdict(threat).items() if key != "text"},
        "seed": seed,
        "versions": {"torch": str(torch.__version__)}
        | {name: version(name) for name in ("abatis", "pyautoattack")},
    }


def digest_points(points: Points) -> str:
    """Return the sha256 of all images and labels, in order."""
    digest = hashlib.sha256()
    for batch in points.eval_batches(256):
        digest.update(batch.x.cpu().contiguous().numpy().tobytes())
        digest.update(batch.y.cpu().numpy().tobytes())
    return digest.hexdigest()
