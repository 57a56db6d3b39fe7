"""``--to robustbench``: the entry model_info/DATASET/THREAT/NAME.json, and the network.

The network is a torch.export program, which loads without this package.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from abatis import __version__
from abatis.api.threat import Threat
from abatis.commands.export.finished_run import CHECKED, FinishedRun
from abatis.commands.export.program import BATCHES, TOLERANCE, write_program
from abatis.config.option_values import RUN_NAME
from abatis.errors import UsageError
from abatis.report.numbers import ROBUST, find_headline, format_share, is_bound
from abatis.report.verdicts import format_verdict
from abatis.system.files import explain_disk_errors, write_text

LEADERBOARDS = {
    "cifar10": ("Linf:8/255", "L2:0.5"),
    "cifar100": ("Linf:8/255",),
    "imagenet": ("Linf:4/255",),
}
TEST_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}


@dataclass(frozen=True)
class LeaderboardEntry:
    """What only the authors know.

    Args:
        name: Name of the entry; the run folder's name if None.
        dataset: Data set of the leaderboard; the run's data if None.
        title: Title of the paper.
        authors: Authors of the paper.
        venue: Where and when the paper appeared.
        link: Address of the paper.
        additional_data: Whether images beyond the training set were used. If None: whether the
            network was pretrained or trained with ``--extra.file``.
    """

    name: str | None = None
    dataset: str | None = None
    title: str = "N/A"
    authors: str = "N/A"
    venue: str = "N/A"
    link: str = "N/A"
    additional_data: bool | None = None


@dataclass(frozen=True)
class ExportedEntry:
    """What was written.

    Args:
        info: The JSON file of the entry.
        difference: Largest difference of logits and input gradients between the written network
            and the run's, as a fraction of the largest value.
        notes: Sentences that must be published with the numbers.
    """

    info: Path
    difference: float
    notes: tuple[str, ...]


def export(asked: argparse.Namespace, run: FinishedRun) -> list[str]:
    """Write the entry and the network into ``asked.out``; returns the lines to print."""
    entry = LeaderboardEntry(
        name=asked.name,
        dataset=asked.dataset,
        title=asked.paper_title,
        authors=asked.authors,
        venue=asked.venue,
        link=asked.link,
        additional_data=asked.additional_data,
    )
    exported = write_entry(run, asked.out, entry)
    return [
        f"wrote {exported.info}, and the network beside it",
        *(f"note: {note}" for note in exported.notes),
    ]


def write_entry(
    run: FinishedRun, out: Path, entry: LeaderboardEntry | None = None
) -> ExportedEntry:
    """Write an evaluated run; raises UsageError where it has no AutoAttack number."""
    entry = entry or LeaderboardEntry()
    folder, record = run.folder, run.record
    if record.get("autoattack_acc") is None:
        raise UsageError(
            f"{folder} has no AutoAttack number, which RobustBench requires",
            fix=f"defense eval {shlex.quote(str(folder))}",
        )
    threat = Threat.parse(record["threat"])
    name = _check_name(entry.name or run.name, "name")
    data = Path(str(record["data"]).rpartition(":")[2]).stem
    dataset = _check_name(entry.dataset or data, "dataset")
    notes = tuple(_notes(record, dataset, threat))
    x, y = run.test_images()
    info = {
        **_entry(entry, run),
        "dataset": dataset,
        "eps": threat.text,
        **_numbers(record),
        "footnote": " ".join(notes),
    }
    path = out / "model_info" / dataset / threat.norm / f"{name}.json"
    with explain_disk_errors(out):
        path.parent.mkdir(parents=True, exist_ok=True)
        difference = write_program(run.module, x, y, out)
        write_text(path, json.dumps(info, indent=2, ensure_ascii=False) + "\n")
        write_text(out / "README.md", _readme(name, path.relative_to(out), threat, difference))
    return ExportedEntry(path, difference, notes)


def _check_name(name: str, option: str) -> str:
    """Return a name that becomes part of a path; raises UsageError where it cannot."""
    if not RUN_NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' is not a valid file name", fix=f"choose another with --{option}"
        )
    return name


def _notes(record: Mapping[str, Any], dataset: str, threat: Threat) -> Iterator[str]:
    """The sentences that must be published with the numbers."""
    verdict = format_verdict(record.get("verdict") or "not run", record.get("ladder"))
    yield f"Masking diagnostics: {verdict}."
    if is_bound(record.get("verdict"), ROBUST):
        bound = format_share(find_headline(record), "FAIL", ROBUST)
        yield f"Robust accuracy: {bound}; the accuracies here are upper bounds."
    n, whole = record["n"], TEST_IMAGES.get(dataset)
    if n != whole:
        yield f"Judged on {n:,} test images" + (f" of {whole:,}." if whole else ".")
    boards = [Threat.parse(text) for text in LEADERBOARDS.get(dataset, ())]
    if not any((threat.norm, threat.eps) == (board.norm, board.eps) for board in boards):
        yield f"RobustBench has no leaderboard for {dataset} under {threat}."
    if left_out := record["attacks"]["AutoAttack"]["left_out"]:
        yield f"AutoAttack ran without {', '.join(left_out)}: not defined for so few classes."
    if note := record.get("note"):
        yield f"Data: {note}."


def _entry(entry: LeaderboardEntry, run: FinishedRun) -> dict[str, Any]:
    others = bool(run.table["pretrained"]) or "file" in run.table.get("extra", {})
    return {
        "link": entry.link,
        "name": entry.title,
        "authors": entry.authors,
        "venue": entry.venue,
        "additional_data": others if entry.additional_data is None else entry.additional_data,
        "number_forward_passes": 1,
        "architecture": run.architecture,
    }


def _numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """Percent as text, two decimals.

    ``external`` is RobustBench's field for a robust accuracy below AutoAttack's.
    """
    robust, autoattack = find_headline(record), record["autoattack_acc"]
    lower = {"external": _percent(robust)} if robust is not None and robust < autoattack else {}
    return {
        "clean_acc": _percent(record["clean_acc"]),
        "reported": _percent(autoattack),
        "autoattack_acc": _percent(autoattack),
        **lower,
        "unreliable": record.get("verdict") == "FAIL",
    }


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _readme(name: str, info: Path, threat: Threat, difference: float) -> str:
    return f"""# {name}

The network (`model.pt2`, `load.py`) needs torch and nothing else. It takes images (B, C, H, W)
in [0, 1], returns logits (B, K), is differentiable in the images, and always stays in eval mode.
In this folder:

```python
from load import load

model = load()  # load("cuda") for the accelerator
```

RobustBench takes the model as it is: `robustbench.utils.clean_accuracy(model, x, y)`. For the
robust accuracy, `pyautoattack.AutoAttack(model, norm="{threat.norm}", eps={threat.text},
version="standard", seed=0)`.
`{info.as_posix()}` is the entry in RobustBench's format.

Written by abatis {__version__} with torch {torch.__version__}; an older torch may not read it. On
{CHECKED} test images, in batches of {" and ".join(map(str, BATCHES))}, logits and input gradients
differ from the run's network by at most {difference:.1e} of the largest value ({TOLERANCE:.0e} is
allowed).
"""
