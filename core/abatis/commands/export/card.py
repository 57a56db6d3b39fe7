"""The model card: a run's numbers, their verdict, its plan, recipe and data, for strangers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w
import torch
from huggingface_hub import EvalResult, ModelCardData

from abatis import __version__
from abatis.commands.export.finished_run import FinishedRun
from abatis.nets.backbones.names import SHORT_NAMES
from abatis.nets.digest import weights_digest
from abatis.nets.normalising import Normalized
from abatis.report.corruptions_table import KEY, SUMMARY, describe_corruptions, list_summary
from abatis.report.eval_record import describe_check, find_verdict, split_threats
from abatis.report.numbers import CLEAN, format_share, is_bound, list_measured
from abatis.report.run_summary import METRICS, summarise_run
from abatis.report.threats_table import EXPLANATION, HEADINGS, describe_union, list_threat_rows
from abatis.report.verdicts import format_verdict
from abatis.runs.run_folder import portable_options, strip_folders
from abatis.system.printable import replace_controls

MOST = 10  # classes that the card names
TASK = "image-classification"
INTERFACE = (
    "Images are floats (B, C, H, W) in [0, 1]; the outputs are logits (B, K). "
    "The normalisation is part of the model."
)
LOADING = """```python
import abatis

model = abatis.load("DIR")  # this folder; or "hf-hub:ORG/NAME"
```
"""
LOADING_TIMM = """timm loads the same weights without the normalisation, whose mean and standard
deviation are in `config.json`:

```python
import timm{registered}

model = timm.create_model("local-dir:DIR", pretrained=True).eval()  # or "hf-hub:ORG/NAME"
```
"""
REGISTERED = "\nimport abatis.nets.backbones  # makes the architecture known to timm"
LOADING_OWN = """```python
import abatis

model = abatis.load("DIR", model=module)  # module: a new {architecture}, not part of this folder
```
"""


def make_card(run: FinishedRun, also: Mapping[str, str]) -> str:
    """The text of README.md; also: the files beside the usual ones and what they are."""
    files = {
        "model.safetensors": "the weights",
        "config.json": "architecture, normalisation, the numbers",
        **also,
    }
    sections = {
        "How robust it is": "\n".join(_numbers(run.record, str(run.table["threat"]))),
        "How it was trained": f"{describe_end(run.folder)}\n\n"
        + "\n".join(_plan(run.plan))
        + "\n\nAs options of `defense-run --config FILE`:\n\n"
        f"```toml\n{tomli_w.dumps(portable_options(run.table))}```",
        "Data": " ".join(_data(run)),
        "How to load it": "\n\n".join((INTERFACE, " ".join(_images(run)), _loading(run))),
        "Files": "\n".join(f"- `{name}`: {what}" for name, what in files.items()) + "\n\n"
        f"sha256 of all tensors by name: `{weights_digest(run.module)}`. "
        f"Written by abatis {__version__} with torch {torch.__version__}.",
    }
    body = "\n\n".join(f"## {title}\n\n{text.strip()}" for title, text in sections.items())
    head = f"---\n{_describe_to_programs(run)}\n---\n"
    return replace_controls(f"{head}\n# {run.name}\n\n{body}\n")


def _describe_to_programs(run: FinishedRun) -> str:
    """The YAML that begins a card, from which the Hub's search and leaderboards read."""
    results = list(_list_results(run.record, str(run.table["threat"])))
    about = ModelCardData(
        library_name="timm" if run.in_timm else "abatis",
        pipeline_tag=TASK,
        tags=[TASK, "adversarial-robustness", "abatis"],
        model_name=run.name if results else None,
        eval_results=results or None,
    )
    return about.to_yaml()


def _list_results(record: Mapping[str, Any], threat: str) -> Iterator[EvalResult]:
    """The accuracies of a record, without those that are no more than upper bounds."""
    for number in list_measured(record):
        if is_bound(record.get("verdict"), number):
            continue
        conditions = {
            "images": record["n"],
            "interval_95": record.get("interval", {}).get(number.key),
        }
        if number != CLEAN:
            conditions |= {
                "threat": record.get("threat", threat),
                "ladder": record.get("ladder"),
                "masking_verdict": record.get("verdict"),
            }
        yield EvalResult(
            task_type=TASK,
            dataset_type=record["data"],
            dataset_name=record["data"],
            dataset_split="test",
            metric_type="accuracy",
            metric_name=number.described,
            metric_value=record[number.key],
            metric_args={key: value for key, value in conditions.items() if value is not None},
        )


def _numbers(record: Mapping[str, Any], threat: str) -> Iterator[str]:
    if not record:
        yield "It was not evaluated: its robustness is unknown."
        return
    n, intervals = record["n"], record.get("interval", {})
    clean = record.get("ladder") == "clean"
    under = ", without an attack" if clean else f", under the threat {record.get('threat', threat)}"
    yield f"Fraction of {n} test images ({record['data']}) that is classified correctly{under}:\n"
    yield "| measure | result | 95 % interval |\n|---|---|---|"
    for number in list_measured(record):
        low, high = intervals.get(number.key, (None, None))
        between = "-" if low is None else f"{100 * low:.1f} to {100 * high:.1f} %"
        share = format_share(record[number.key], record.get("verdict"), number)
        yield f"| {number.described} | {share} | {between} |"
    if record.get(KEY):
        yield f"\n| {' | '.join(SUMMARY)} |\n|---|---|"
        yield from (f"| {' | '.join(row)} |" for row in list_summary(record))
        yield f"\n{' '.join(describe_corruptions(record))}"
    if clean:
        yield "\nNo attack was run: its robustness is unknown."
        return
    yield from _under_all(record)
    tests = record.get("masking", {}).get("tests", [])
    made = sum(test["status"] != "not applicable" for test in tests)
    count = f"{len(tests)} tests" if made == len(tests) else f"{made} of {len(tests)} tests"
    verdict = format_verdict(record.get("verdict") or "not measured", record.get("ladder"))
    yield f"\nVerdict on gradient masking: **{verdict}** ({count})."
    yield from (f"- {finding}" for finding in record.get("findings", []))
    if find_verdict(record) == "FAIL":
        yield "\n**The robust accuracies cannot be trusted.**"
    adaptive = record.get("adaptive_attack")
    if unchecked := describe_check(record):
        yield f"\n{unchecked}."
    yield (
        "No adaptive attack was supplied." if adaptive is None else f"Adaptive attack: {adaptive}."
    )


def _images(run: FinishedRun) -> Iterator[str]:
    """Size, crop, normalisation and classes of the images."""
    facts = run.facts
    size = f"{facts['channels']}x{facts['image_size']}x{facts['image_size']}"
    seen = run.view
    yield f"It was trained on images of {size}."
    if seen["crop_pct"] < 1:
        yield (
            f"Image files are resized ({seen['interpolation']}) and the middle "
            f"{seen['crop_pct']:.3g} of them is cut out."
        )
    if isinstance(run.module, Normalized):
        mean, std = (buffer.flatten().tolist() for buffer in run.module.normalize.buffers())
        yield f"Inside, the mean {_show(mean)} is subtracted and divided by {_show(std)}."
    if names := facts.get("class_names"):
        shown = ", ".join(names[:MOST]) + (", ..." if len(names) > MOST else "")
        yield f"Outputs in order: {shown} (all in `config.json`)."


def _show(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _under_all(record: Mapping[str, Any]) -> Iterator[str]:
    """The table of several threats; nothing where there is one."""
    rows = list_threat_rows(record)
    if not rows:
        return
    yield f"\nUnder several threats; {describe_union(record)}. {EXPLANATION}\n"
    yield f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    for other in split_threats(record)[1:]:
        yield from (f"- {other['threat']}: {finding}" for finding in other["findings"])


def describe_end(folder: Path) -> str:
    """A sentence where the training ended before its last epoch; empty elsewhere."""
    if not (folder / METRICS).is_file():
        return ""
    run = summarise_run(folder)
    if run.epochs is None or run.epoch >= run.epochs:
        return ""
    why = f": {run.why}" if run.why else ""
    return f"Training ended after epoch {run.epoch} of {run.epochs} (run {run.state}{why})."


def _plan(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| role | provider | version | options |\n|---|---|---|---|"
    for row in rows:
        options = ", ".join(
            f"{key} {strip_folders(value)}" for key, value in row["options"].items()
        ).replace("|", "\\|")
        yield f"| {row['role']} | {strip_folders(row['provider'])} | {row['version']} | {options} |"


def _data(run: FinishedRun) -> Iterator[str]:
    table, record = run.table, run.record
    yield f"Trained on `{strip_folders(table['data'])}`" + (
        f", {table['limit']} images of all classes." if table.get("limit") else "."
    )
    if note := record.get("note"):
        yield f"{note[0].upper()}{note[1:]}."
    if table["pretrained"]:
        yield "Training started from timm's weights, pretrained on other images."
    if table.get("init"):
        yield f"Training started from the weights `{strip_folders(table['init'])}`."
    if table.get("continue_from"):
        yield (
            f"Training went on from the run `{strip_folders(table['continue_from'])}`; see its"
            " options, too."
        )
    if record:
        yield f"Weights selected on: {record.get('selected_on', 'unknown')}."
        times = record.get("test_set_evaluations", "an unknown number of")
        yield f"The test set has been used {times} time(s)."


def _loading(run: FinishedRun) -> str:
    if not run.in_timm:
        return LOADING_OWN.format(architecture=run.architecture)
    ours = run.architecture in SHORT_NAMES.values()
    return f"{LOADING}\n{LOADING_TIMM.format(registered=REGISTERED if ours else '')}"
