"""``defense eval MODEL``: judge any model on any data, and say how far the number can be trusted."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abatis.parser import Parser

if TYPE_CHECKING:
    from abatis.data import Data
    from abatis.evaluate.subject import Subject

MASKED = 6  # exit code of --strict


def command(words: Sequence[str], prog: str) -> int:
    """Returns the exit code: 0 whatever the verdict, 6 with ``--strict`` on FAIL."""
    asked = _parser(prog).parse_args(list(words))
    from abatis import processes
    from abatis.randomness import untouched

    with processes.joined(), untouched():
        verdict = _judged(asked, f"{prog} {shlex.join(words)}")
    return MASKED if asked.strict and verdict == "FAIL" else 0


def _parser(prog: str) -> Parser:
    parser = Parser(prog=prog, allow_abbrev=False, description="Judge a model: attacks, masking verdict, margins, report.")
    parser.add_argument("model", metavar="MODEL",
                        help="run folder, exported folder, hf-hub:ORG/NAME, .pt2 or .onnx, weights file (with --backbone), "
                             "timm name, or FILE.py:FACTORY")  # fmt: skip
    parser.add_argument("--backbone", metavar="NAME", help="the network of a weights file")
    parser.add_argument("--allow-pickle", action="store_true",
                        help="take .pt and .pth files, whose tensors are loaded, and .pt2 files, which run")  # fmt: skip
    parser.add_argument("--data", metavar="SET", help="as in defense-run; a run's own if not given")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), metavar="PATH", help="where named data sets lie")
    parser.add_argument("--image-size", type=int, metavar="N", help="pixels a side for folder data")
    parser.add_argument("--skip-broken", action="store_true", help="leave out files of a folder that are no images")
    parser.add_argument("--threat", metavar="NORM:EPS", help="Linf:8/255, L2:0.5, L1:12; a run's own if not given")
    parser.add_argument("--ladder", choices=("quick", "standard", "thorough"), default="standard",
                        help="quick: clean, PGD-20; standard: + AutoAttack; thorough: + PGD-100 x 5, plus")  # fmt: skip
    parser.add_argument("--square-bf16", action="store_true", help="AutoAttack's Square in bfloat16: a number of its own")
    parser.add_argument("--subset", type=_positive, metavar="N", help="the first N test images")
    parser.add_argument("--batch-size", type=_positive, default=256, metavar="N", help="images at a time")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of every random draw; a run's own for its folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where eval.json and report.html go; made up if not given")
    parser.add_argument("--strict", action="store_true", help=f"exit with {MASKED} where the verdict is FAIL")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _judged(asked: argparse.Namespace, line: str) -> str:
    """Evaluate, write the record and the report, show them; returns the verdict."""
    from abatis import processes
    from abatis.checkpoint import disk
    from abatis.evaluate import evaluate
    from abatis.evaluate.judge import First
    from abatis.evaluate.record import STATE, check_replaceable, facts, write_record
    from abatis.evaluate.subject import find_subject
    from abatis.report.run_report import write_report
    from abatis.report.terminal import Reporter
    from abatis.runner import pick_device
    from abatis.stopping import stopped_at_once
    from abatis.types import Threat

    reporter = Reporter(asked.quiet or processes.rank() > 0)
    subject, device = find_subject(asked.model, asked.backbone, asked.allow_pickle), pick_device(asked.device)
    images = _data(asked, subject, device)
    threat = Threat.parse(asked.threat or subject.threat or "Linf:8/255")
    folder = asked.out or _folder(asked, subject, images.info.name, str(threat))
    check_replaceable(folder, asked.ladder)
    module, notes = subject.module(images.info, device)
    for note in notes:
        reporter.note(f"note: {note}")
    split = images.test if asked.subset is None else First(images.test, asked.subset)
    seed = subject.run.seed if subject.run else asked.seed
    known = _of_run(subject, module, images, device) if _same_data(asked, subject) else {}
    with disk(folder):  # before hours of attacks
        folder.mkdir(parents=True, exist_ok=True)
    with stopped_at_once(folder, "the same command goes on from here"), reporter.judging() as progress:
        found = evaluate(module, split, threat, ladder=asked.ladder, seed=seed, batch_size=asked.batch_size, device=device,
                         num_classes=images.info.num_classes, progress=progress, state=folder / STATE,
                         square_bf16=asked.square_bf16, **known)  # fmt: skip
    if processes.rank() == 0:
        told = {**facts(asked.model, module, images.info, threat, seed), "command": line}
        record = write_record(folder, {**found.to_json(), **told, **_selection(subject)})
        reporter.evaluation(record)
        write_report(folder)
        reporter.closing(folder, images.info.note)
    return found.verdict


def _data(asked: argparse.Namespace, subject: Subject, device: Any) -> Data:
    from abatis.backbones import view_of
    from abatis.data import open_data
    from abatis.errors import UsageError

    run = subject.run
    view = view_of(run.backbone if run is not None else subject.backbone or subject.spec)
    if run is not None and _same_data(asked, subject):
        return open_data(run.data, data_dir=run.data_dir, limit=run.limit, image_size=run.image_size, augment=run.augment,
                         device=device, workers=run.workers, skip_broken=run.skip_broken, view=view)  # fmt: skip
    if asked.data is None:
        raise UsageError(f"which data shall {asked.model} be judged on?", fix="add --data cifar10, npz:PATH, folder:PATH, ...")
    return open_data(asked.data, data_dir=asked.data_dir, limit=None, image_size=asked.image_size, augment="none",
                     device=device, workers=0, skip_broken=asked.skip_broken, view=view)  # fmt: skip


def _same_data(asked: argparse.Namespace, subject: Subject) -> bool:
    """Is the run judged on the data it was trained on?"""
    return subject.run is not None and asked.data in (None, subject.run.data)


def _folder(asked: argparse.Namespace, subject: Subject, data: str, threat: str) -> Path:
    """The run folder for the run's own question, else one that names the question."""
    run = subject.run
    if run is not None and _same_data(asked, subject) and threat == run.threat and asked.subset is None:
        return subject.path
    parts = [subject.path.name or subject.spec, Path(data).stem, threat, *([f"first{asked.subset}"] if asked.subset else [])]
    return Path("evals") / "-".join(re.sub(r"[^A-Za-z0-9_.]+", "-", part).strip("-") for part in parts)


def _of_run(subject: Subject, module: Any, images: Data, device: Any) -> dict[str, Any]:
    """What only a run's own evaluation has: its training images and its plugins' adaptive attacks."""
    from abatis.evaluate.of_run import training_of
    from abatis.runner import prepare

    if subject.run is None:
        return {}
    config = subject.run.model_copy(update={"init": None})  # its weights are those to be judged
    plan = prepare(config, images.info, device, module).plan
    return {"training": training_of(subject.run, module, images), "adaptive": plan.adaptive}


def _selection(subject: Subject) -> dict[str, Any]:
    """How the weights of a run were chosen, as its own evaluation said."""
    from abatis.evaluate.record import read_record

    before = read_record(subject.path) if subject.run is not None else {}
    return {key: before[key] for key in ("weights", "selected_at_epoch", "selected_on") if key in before}
