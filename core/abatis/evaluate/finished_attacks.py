"""The verdicts of finished attacks, kept in a file so that a killed evaluation can resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from abatis.errors import DataError
from abatis.evaluate.album import Album
from abatis.evaluate.judge import Verdicts
from abatis.evaluate.question import digest_flags
from abatis.report.sealed_json import is_intact, read_json, write_sealed
from abatis.system import distributed
from abatis.system.files import explain_disk_errors

FORMAT = 4


class FinishedAttacks:
    """Finished attacks by name, for one question.

    A file about another question, a damaged one and an edited one are ignored: the attacks run
    again. Of several processes only the first reads and writes.

    Args:
        path: the file; None keeps nothing.
        question: what is asked; see :func:`~abatis.evaluate.question.describe_question`.
    """

    def __init__(
        self, path: Path | None = None, question: Mapping[str, object] | None = None
    ) -> None:
        self.path = path
        self.question = _as_json({"format": FORMAT, **(question or {})})
        self._known: dict[str, dict[str, Any]] = {}
        self.album = Album()  # of these attacks: what their images were
        if path is not None:
            self._known, self.album = distributed.first_says(self._read(path))

    def get_or_run(
        self,
        name: str,
        attack: Callable[[], Verdicts],
        settings: Mapping[str, object],
        attacked: Tensor,
    ) -> Verdicts:
        """Return the verdicts of an attack, which runs only if it did not finish before.

        Args:
            name: of the attack.
            attack: runs it.
            settings: of the attack, in plain types; kept verdicts are of equal settings only.
            attacked: the points that it is run on, (n,) bool; so are these.
        """
        asked = _as_json({"settings": settings, "attacked": digest_flags(attacked)})
        known = self._known.get(name)
        if known is not None and known["asked"] == asked:
            flags = torch.tensor([mark == "1" for mark in known["robust"]])
            # no attack makes a wrong point right
            if len(flags) == len(attacked) and not (flags & ~attacked.cpu()).any():
                warnings = tuple(known["warnings"])
                return Verdicts(name, flags, known["facts"], warnings, known["stray"])
        verdicts = attack()
        self._keep(verdicts, asked)
        return verdicts

    def _keep(self, verdicts: Verdicts, asked: object) -> None:
        if self.path is None:
            return
        self._known[verdicts.name] = {
            "asked": asked,
            "robust": "".join("1" if flag else "0" for flag in verdicts.robust.tolist()),
            "facts": verdicts.facts,
            "warnings": verdicts.warnings,
            "stray": verdicts.stray,
        }
        if distributed.rank() == 0:
            with explain_disk_errors(self.path):
                write_sealed(
                    self.path,
                    {
                        "question": self.question,
                        "attacks": self._known,
                        "album": self.album.to_json(),
                    },
                )

    def _read(self, path: Path) -> tuple[dict[str, dict[str, Any]], Album]:
        try:
            found = read_json(path)
        except DataError:
            return {}, Album()
        intact = isinstance(found, dict) and is_intact(found)
        if not intact or found.get("question") != self.question:
            return {}, Album()
        return dict(found["attacks"]), Album.from_json(found["album"])


def _as_json(table: Mapping[str, object]) -> Any:
    """A table as a JSON file gives it back."""
    return json.loads(json.dumps(table))
