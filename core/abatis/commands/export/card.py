"""The model card: the number, its verdict, the plan, the recipe and the data of a run, for people who were not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tomli_w
import torch

from abatis import __version__
from abatis.commands.export.finished_run import Source
from abatis.nets.backbones.names import SHORT_NAMES
from abatis.nets.digest import weights_digest
from abatis.runs.run_folder import bare, recipe

NUMBERS = {
    "clean_acc": "clean images",
    "pgd20_acc": "PGD-20",
    "margin_pgd20_acc": "PGD-20 on the margin",
    "autoattack_acc": "AutoAttack",
    "robust_acc": "all attacks and diagnostics together",
}
HEAD = """---
library_name: {library}
pipeline_tag: image-classification
tags:
- image-classification
- adversarial-robustness
- abatis
---
"""
INTERFACE = "Images are floats (B, C, H, W) in [0, 1], the outputs logits (B, K). The normalisation is inside."
LOADING = """```python
import abatis

model = abatis.load("DIR")  # this folder; or "hf-hub:ORG/NAME"
```
"""
LOADING_TIMM = """timm loads the same weights without the normalisation, whose mean and standard deviation are in `config.json`:

```python
import timm{registered}

model = timm.create_model("local-dir:DIR", pretrained=True).eval()  # or "hf-hub:ORG/NAME"
```
"""
REGISTERED = "\nimport abatis.nets.backbones  # makes the architecture known to timm"
LOADING_OWN = """```python
import abatis

model = abatis.load("DIR", model=module)  # module: a new {architecture}, which this folder does not hold
```
"""


def card(source: Source, also: Mapping[str, str]) -> str:
    """README.md in Markdown; also: the files beside the usual ones and what they are."""
    files = {
        "model.safetensors": "the weights",
        "config.json": "architecture, normalisation, the numbers",
        **also,
    }
    sections = {
        "How robust it is": "\n".join(_numbers(source.record, str(source.table["threat"]))),
        "How it was trained": "\n".join(_plan(source.plan))
        + "\n\nAs options of `defense-run --config FILE`:\n\n"
        f"```toml\n{tomli_w.dumps(recipe(source.table))}```",
        "Data": " ".join(_data(source)),
        "How to load it": "\n\n".join((INTERFACE, _loading(source))),
        "Files": "\n".join(f"- `{name}`: {what}" for name, what in files.items()) + "\n\n"
        f"sha256 over all tensors by name: `{weights_digest(source.module)}`. Written by abatis {__version__} "
        f"with torch {torch.__version__}.",
    }
    told = "\n\n".join(f"## {title}\n\n{text.strip()}" for title, text in sections.items())
    return f"{HEAD.format(library='timm' if source.in_timm else 'abatis')}\n# {source.name}\n\n{told}\n"


def _numbers(record: Mapping[str, Any], threat: str) -> Iterator[str]:
    if not record:
        yield "It was not judged: nothing is known of its robustness."
        return
    n, intervals = record["n"], record.get("interval", {})
    yield f"Share of {n} test images ({record['data']}) that is classified right, under {record.get('threat', threat)}:\n"
    yield "| attack | accuracy | 95 % interval |\n|---|---|---|"
    for key, name in NUMBERS.items():
        if record.get(key) is not None:
            low, high = intervals.get(key, (None, None))
            between = "-" if low is None else f"{100 * low:.1f} to {100 * high:.1f} %"
            yield f"| {name} | {100 * record[key]:.2f} % | {between} |"
    tests = record.get("masking", {}).get("tests", [])
    yield f"\nVerdict on gradient masking: **{record.get('verdict') or 'not measured'}** ({len(tests)} tests)."
    yield from (f"- {finding}" for finding in record.get("findings", []))
    if record.get("verdict") == "FAIL":
        yield "\n**The accuracies under attack cannot be trusted.**"
    adaptive = record.get("adaptive_attack")
    yield (
        "No adaptive attack was supplied." if adaptive is None else f"Adaptive attack: {adaptive}."
    )


def _plan(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| role | provider | version | options |\n|---|---|---|---|"
    for row in rows:
        options = ", ".join(
            f"{key} {bare(value)}" for key, value in row["options"].items()
        ).replace("|", "\\|")
        yield f"| {row['role']} | {bare(row['provider'])} | {row['version']} | {options} |"


def _data(source: Source) -> Iterator[str]:
    table, record = source.table, source.record
    yield f"Trained on `{bare(table['data'])}`" + (
        f", the first {table['limit']} images." if table.get("limit") else "."
    )
    if note := record.get("note"):
        yield f"{note[0].upper()}{note[1:]}."
    if table["pretrained"]:
        yield "It started from weights that timm had trained on other images."
    if table.get("init"):
        yield f"It started from the weights `{bare(table['init'])}`."
    if record:
        yield f"Weights selected on: {record.get('selected_on', 'unknown')}."
        yield f"The test set has been looked at {record.get('test_set_evaluations', 'an unknown number of')} time(s)."


def _loading(source: Source) -> str:
    if not source.in_timm:
        return LOADING_OWN.format(architecture=source.architecture)
    ours = source.architecture in SHORT_NAMES.values()
    return f"{LOADING}\n{LOADING_TIMM.format(registered=REGISTERED if ours else '')}"
