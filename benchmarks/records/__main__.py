"""Make one record on CIFAR-10, and the table of all of them.

    python -m benchmarks.records at --data-dir data    # small: minutes on a CPU
    python -m benchmarks.records at --scale full --device cuda    # ResNet-18, 30 epochs
    timeout -s TERM 500 python -m benchmarks.records emr --scale full --device cuda

The last command, repeated, continues where it stopped.
    python -m benchmarks.records page                               # the table alone

DIR of --data-dir holds cifar10.npz, or the published files, which are downloaded where they are
not. A command that was stopped or killed goes on when it is repeated, in the training and in the
evaluation; a speed record begins anew.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.records.making import Order, make
from benchmarks.records.page import PAGE, RESULTS, page, write
from benchmarks.records.settings import RECORDS, SCALES

import abatis


def main() -> int:
    """Returns the exit code: 0, or that of a run that was stopped or could not start."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=[*RECORDS, "page"])
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DIR")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/records"),
        metavar="DIR",
        help="holds the run folders",
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="holds the records"
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="in place of the setting's")
    parser.add_argument("--points", type=int, metavar="N", help="judge on N images of all classes")
    parser.add_argument(
        "--note", default="", metavar="TEXT", help="into the record, such as what was tried"
    )
    asked = parser.parse_args()
    if asked.name != "page":
        order = Order(
            asked.name,
            asked.scale,
            asked.device,
            asked.data_dir,
            asked.out,
            asked.epochs,
            asked.points,
            asked.note,
        )
        try:
            print(f"written: {write(make(order), asked.results)}")
        except abatis.AbatisError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
