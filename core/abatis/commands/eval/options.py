"""The words of ``defense eval``. Loads without torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from abatis.config.parser import Parser

MASKED = 6  # exit code of --strict


def make_parser(prog: str) -> Parser:
    """All options of the command."""
    parser = Parser(
        prog=prog,
        allow_abbrev=False,
        description="Judge a model: attacks, masking verdict, margins, report.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="run folder, exported folder, hf-hub:ORG/NAME, .pt2 or .onnx, weights file (with --backbone), "
        "timm name, or FILE.py:FACTORY",
    )
    parser.add_argument("--backbone", metavar="NAME", help="the network of a weights file")
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="take .pt and .pth files, whose tensors are loaded, and .pt2 files, which run",
    )
    parser.add_argument("--data", metavar="SET", help="as in defense-run; a run's own if not given")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path("data"),
        metavar="PATH",
        help="where named data sets lie",
    )
    parser.add_argument("--image-size", type=int, metavar="N", help="pixels a side for folder data")
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out files of a folder that are no images"
    )
    parser.add_argument(
        "--threat", metavar="NORM:EPS", help="Linf:8/255, L2:0.5, L1:12; a run's own if not given"
    )
    parser.add_argument(
        "--ladder",
        choices=("quick", "standard", "thorough"),
        default="standard",
        help="quick: clean, PGD-20; standard: + AutoAttack; thorough: + PGD-100 x 5, plus",
    )
    parser.add_argument(
        "--square-bf16",
        action="store_true",
        help="AutoAttack's Square in bfloat16: a number of its own",
    )
    parser.add_argument("--subset", type=_positive, metavar="N", help="the first N test images")
    parser.add_argument(
        "--batch-size", type=_positive, default=256, metavar="N", help="images at a time"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of every random draw; a run's own for its folder",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where eval.json and report.html go; made up if not given",
    )
    parser.add_argument(
        "--strict", action="store_true", help=f"exit with {MASKED} where the verdict is FAIL"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
