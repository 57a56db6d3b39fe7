"""RobustBench's form: model_info/DATASET/THREAT/NAME.json, and the network as a module that loads without this package."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from abatis import __version__
from abatis.api.threat import Threat
from abatis.commands.export.finished_run import CHECKED, Source
from abatis.commands.export.program import BATCHES, TOLERANCE, write_program
from abatis.config.run_config import RUN_NAME
from abatis.errors import UsageError
from abatis.system.files import explain_disk_errors, write_text

LEADERBOARDS = {
    "cifar10": ("Linf:8/255", "L2:0.5"),
    "cifar100": ("Linf:8/255",),
    "imagenet": ("Linf:4/255",),
}
TEST_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}


@dataclass(frozen=True)
class Entry:
    """What only the authors know. name: of the entry, the run folder's if None; dataset: of the leaderboard, the run's data
    if None; additional_data: were other images used than the training set, by default whether the network
    was pretrained or had --extra.file?"""

    name: str | None = None
    dataset: str | None = None
    title: str = "N/A"
    authors: str = "N/A"
    venue: str = "N/A"
    link: str = "N/A"
    additional_data: bool | None = None


@dataclass(frozen=True)
class Exported:
    """info: the JSON file; difference: of the written network's logits and input gradients, as a share of the largest;
    notes: plain sentences that must go with the numbers."""

    info: Path
    difference: float
    notes: tuple[str, ...]


def export(source: Source, out: Path, entry: Entry | None = None) -> Exported:
    """Write a judged run; raises UsageError where it has no AutoAttack number."""
    entry = entry or Entry()
    folder, record = source.folder, source.record
    if record.get("autoattack_acc") is None:
        raise UsageError(
            f"{folder} has no AutoAttack number, which RobustBench requires",
            fix=f"defense eval {folder}",
        )
    threat = Threat.parse(record["threat"])
    name = _safe(entry.name or source.name, "name")
    dataset = _safe(entry.dataset or Path(str(record["data"]).rpartition(":")[2]).stem, "dataset")
    notes = tuple(_notes(record, dataset, threat))
    x, y = source.test_images()
    info = {
        **_entry(entry, source),
        "dataset": dataset,
        "eps": threat.text,
        **_numbers(record),
        "footnote": " ".join(notes),
    }
    path = out / "model_info" / dataset / threat.norm / f"{name}.json"
    with explain_disk_errors(out):
        path.parent.mkdir(parents=True, exist_ok=True)
        difference = write_program(source.module, x, y, out)
        write_text(path, json.dumps(info, indent=2, ensure_ascii=False) + "\n")
        write_text(out / "README.md", _readme(name, path.relative_to(out), threat, difference))
    return Exported(path, difference, notes)


def _safe(name: str, option: str) -> str:
    """A word that becomes part of a path."""
    if not RUN_NAME.fullmatch(name):
        raise UsageError(f"'{name}' cannot be a file's name", fix=f"give another with --{option}")
    return name


def _notes(record: Mapping[str, Any], dataset: str, threat: Threat) -> Iterator[str]:
    """What must be said beside the numbers."""
    yield f"Masking diagnostics: {record.get('verdict') or 'not run'}."
    n, whole = record["n"], TEST_IMAGES.get(dataset)
    if n != whole:
        yield f"Judged on {n:,} test images" + (f" of {whole:,}." if whole else ".")
    boards = [Threat.parse(text) for text in LEADERBOARDS.get(dataset, ())]
    if not any((threat.norm, threat.eps) == (board.norm, board.eps) for board in boards):
        yield f"RobustBench has no leaderboard for {dataset} under {threat}."
    if left_out := record["attacks"]["AutoAttack"]["left_out"]:
        yield f"AutoAttack ran without {', '.join(left_out)}: undefined for so few classes."
    if note := record.get("note"):
        yield f"Data: {note}."


def _entry(entry: Entry, source: Source) -> dict[str, Any]:
    others = bool(source.table["pretrained"]) or "file" in source.table.get("extra", {})
    return {
        "link": entry.link,
        "name": entry.title,
        "authors": entry.authors,
        "venue": entry.venue,
        "additional_data": others if entry.additional_data is None else entry.additional_data,
        "number_forward_passes": 1,
        "architecture": source.architecture,
    }


def _numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """Percent as text, two decimals; ``external`` is RobustBench's field for a number below AutoAttack's."""
    robust, autoattack = record.get("robust_acc"), record["autoattack_acc"]
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

The network (`model.pt2`, `load.py`) needs torch and nothing else. It takes images (B, C, H, W) in [0, 1], gives logits
(B, K), is differentiable in the images, and is in eval mode for good. In this folder:

```python
from load import load

model = load()  # load("cuda") for the accelerator
```

RobustBench takes it as it is: `robustbench.utils.clean_accuracy(model, x, y)`, and for the robust accuracy
`pyautoattack.AutoAttack(model, norm="{threat.norm}", eps={threat.text}, version="standard", seed=0)`.
`{info.as_posix()}` is the entry in RobustBench's form.

Written by abatis {__version__} with torch {torch.__version__}; an older torch may not read it. On {CHECKED} test images, in
batches of {" and ".join(map(str, BATCHES))}, logits and input gradients differ from the run's network by at most
{difference:.1e} of the largest value ({TOLERANCE:.0e} is allowed).
"""
