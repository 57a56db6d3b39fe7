"""The options of ``defense eval``. Loads without torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from abatis.api.options import read_path
from abatis.commands.eval.data_options import add_source_options
from abatis.config.ladders import LADDERS, LADDERS_IN_WORDS
from abatis.config.parser import Parser, read_count

DATA_DIR = Path("data")  # where none is given
MADE = "made"  # corruptions that are computed
MASKED = 6  # exit code with --strict if the verdict is FAIL


def make_parser(prog: str) -> Parser:
    """The parser of all options."""
    parser = Parser(
        prog=prog,
        allow_abbrev=False,
        description="Evaluate a model: attacks, masking verdict, margins, report.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="run folder, exported folder, weights file (with --backbone), FILE.py:FACTORY or "
        "another network (with --weights), timm name, torchvision:NAME, hf-hub:ORG/NAME, "
        "local-dir:PATH, rb:NAME of RobustBench, or a TorchScript, .pt2 or .onnx file",
    )
    parser.add_argument("--backbone", metavar="NAME", help="network of a weights file")
    parser.add_argument(
        "--weights", metavar="FILE", help="weights file or folder for the network MODEL"
    )
    add_judging_options(parser)
    parser.add_argument(
        "--out",
        type=read_path,
        metavar="DIR",
        help="folder for eval.json and report.html (default: the run folder, or one below evals)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help=f"exit with code {MASKED} if the masking verdict is FAIL",
    )
    parser.add_argument("--quiet", action="store_true", help="print only errors")
    parser.set_defaults(reuse=False)  # whether an equal evaluation in the folder is taken as it is
    return parser


def add_judging_options(parser: argparse._ActionsContainer) -> None:
    """The options that one network or several can be judged with."""
    _add_opening_options(parser)
    _add_data_options(parser)
    _add_attack_options(parser)
    _add_further_options(parser)


def _add_opening_options(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--zoo-dir",
        default="models",
        metavar="DIR",
        help="folder with the weights of rb: networks, as RobustBench keeps them (default: models)",
    )
    parser.add_argument(
        "--weights-key",
        metavar="NAME",
        help="which set of weights to take from a file that holds several, such as ema",
    )
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="accept .pt, .pth, .ckpt and .bin files (only their tensors are loaded), and programs "
        "(their code is run)",
    )
    parser.add_argument(
        "--normalize",
        nargs="+",
        metavar="STATISTICS",
        help="mean and standard deviation of the layer before the network: data, imagenet, "
        "cifar10, none, or MEAN STD with commas between channels (default: as the weights say, "
        "else those of the data)",
    )
    parser.add_argument(
        "--output",
        metavar="KEY",
        help="which output of the network are the logits: a key or a number; sigmoid: it returns "
        "a single logit",
    )
    parser.add_argument(
        "--label-map",
        metavar="MAP",
        help="which output is which class: imagenet (folders named by wnids), imagenet-a, "
        "imagenet-r, or a file of class names and outputs",
    )


def _add_data_options(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--data", metavar="SET", help="data set, as in defense-run (default: the run's own)"
    )
    parser.add_argument(
        "--data-dir",
        type=read_path,
        default=DATA_DIR,
        metavar="PATH",
        help="folder of the named data sets (default: data)",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="download a torchvision: data set that is not in --data-dir",
    )
    parser.add_argument(
        "--limit",
        type=read_count,
        metavar="N",
        help="use only N training images, of all classes, and this share of the test images, as "
        "defense-run does",
    )
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="side length in pixels for image folders"
    )
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave out files of an image folder that cannot be read",
    )
    parser.add_argument(
        "--follow-links",
        action="store_true",
        help="read image files that links lead to outside of the data folder",
    )
    add_source_options(parser)
    parser.add_argument(
        "--threat",
        metavar="NORM:EPS",
        action="append",
        default=[],
        help="such as Linf:8/255, L2:0.5 or L1:12; repeat it to judge several threats and their "
        "union (default: the model's own, or Linf:8/255)",
    )


def _add_attack_options(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--ladder",
        choices=LADDERS,
        default="standard",
        help=f"{LADDERS_IN_WORDS}, which the others choose by themselves (default: standard)",
    )
    parser.add_argument(
        "--square-bf16",
        action="store_true",
        help="run AutoAttack's Square in bfloat16; its result is reported as a separate number",
    )
    parser.add_argument(
        "--subset",
        type=read_count,
        metavar="N",
        help="judge only N test images, of all classes, the same ones in every evaluation",
    )
    parser.add_argument(
        "--points",
        type=read_path,
        metavar="FILE",
        help="use only the test images that this file lists, one a line: indices counted from 0, "
        "or names of image files",
    )
    parser.add_argument(
        "--batch-size",
        type=read_count,
        default=256,
        metavar="N",
        help="images per batch (default: 256)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="random seed; a run folder is always evaluated with its own (default: 0)",
    )
    parser.add_argument(
        "--layout",
        choices=("auto", "contiguous", "channels_last"),
        default="auto",
        help="of tensors inside the network, in attacks; eval.json says which one it was (default: "
        "auto, which is channels_last)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)"
    )


def _add_further_options(parser: argparse._ActionsContainer) -> None:
    """What is judged beside the ladder."""
    parser.add_argument(
        "--corruptions",
        nargs="?",
        const=MADE,
        metavar="PATH",
        help="also judge on corrupted images: the folder of CIFAR-10-C, CIFAR-100-C or ImageNet-C, "
        f"or {MADE}: the fifteen corruptions computed here (the default without a value)",
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="ATTACK",
        help="run another attack beside the ladder: foolbox:NAME, torchattacks:NAME, adv-lib:NAME "
        "or FILE.py:FUNCTION, a function f(model, x, y) that returns images; repeat it for several",
    )
