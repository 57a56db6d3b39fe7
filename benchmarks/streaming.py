"""An epoch of augmented photographs at 224 pixels: ours, torchvision's ImageFolder in a DataLoader,
and timm's loader, on the same files.

    python -m benchmarks.streaming [FOLDER]    # from the repository's root; some minutes

FOLDER has train/<class>/* and val/<class>/*; without it, photographs are made up. Writes
benchmarks/results/streaming.json and .md.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.record_files import list_versions, write_record
from benchmarks.side_by_side import Times, Variant, facts, measure, ratio
from PIL import Image
from torch.utils.data import DataLoader

from abatis.data import Data, DataRequest, epoch_batches, open_data
from abatis.data.info import AREA, ASPECT
from abatis.system.timm_import import timm, torchvision

RECORD = Path(__file__).parent / "results" / "streaming.json"
SIZE, BATCH, ROUNDS, WORKERS = 224, 32, 5, 2
OURS, VISION, TIMM = "abatis", "torchvision's DataLoader", "timm's loader"
PHOTOGRAPHS, CLASSES = 300, 10
"""How many are made up where no folder is given, and their classes."""


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(sys.argv[1]) if len(sys.argv) > 1 else make_photographs(Path(folder))
        data = open_data(DataRequest(f"folder:{root}", image_size=SIZE, validation=0))
        count = len(data.train) // BATCH * BATCH
        here = measure(as_variants(list_ways(root, data, 0)), ROUNDS)
        there = measure_wall(list_ways(root, open_with_workers(root), WORKERS))
    rows = [summarise(name, count, here, there) for name in here]
    record = facts("abatis", "torch", "torchvision", "timm", "pillow") | {
        "photographs": "made up" if len(sys.argv) == 1 else Path(sys.argv[1]).name,
        "images": count,
        "rounds": ROUNDS,
        "workers": WORKERS,
        "rows": rows,
    }
    write_record(RECORD, record, page(record))


def make_photographs(root: Path) -> Path:
    """JPEG files of 500x375 pixels, smooth with noise, as photographs are."""
    draw = np.random.default_rng(0)
    for number in range(PHOTOGRAPHS):
        coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        noisy = (smooth + draw.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
        part = "val" if number % 10 == 0 else "train"
        file = root / part / str(number // 10 % CLASSES) / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(file, quality=90)
    return root


def open_with_workers(root: Path) -> Data:
    """Our data, read by other processes."""
    request = DataRequest(f"folder:{root}", image_size=SIZE, validation=0, workers=WORKERS)
    return open_data(request)


def list_ways(root: Path, data: Data, workers: int) -> dict[str, Callable[[], None]]:
    """An epoch, each way, with the same crops and flips."""
    known = torchvision.transforms
    transform = known.Compose(
        [
            known.RandomResizedCrop(SIZE, AREA, ASPECT),
            known.RandomHorizontalFlip(),
            known.ToTensor(),
        ]
    )
    more = {"num_workers": workers, "persistent_workers": workers > 0}
    vision: Iterable[object] = DataLoader(
        torchvision.datasets.ImageFolder(str(root / "train"), transform),
        BATCH,
        shuffle=True,
        drop_last=True,
        **more,
    )
    loader: Iterable[object] = timm.data.create_loader(
        timm.data.create_dataset("", root=str(root / "train")),
        input_size=(3, SIZE, SIZE),
        batch_size=BATCH,
        is_training=True,
        scale=AREA,
        ratio=ASPECT,
        color_jitter=None,
        interpolation="bilinear",
        use_prefetcher=False,
        device=torch.device("cpu"),
        **more,
    )
    batches = epoch_batches(len(data.train), BATCH, 0, 0)
    return {
        OURS: lambda: consume(data.train.train_batches(enumerate(batches), 0)),
        VISION: lambda: consume(vision),
        TIMM: lambda: consume(loader),
    }


def as_variants(ways: Mapping[str, Callable[[], None]]) -> dict[str, Variant]:
    """What is measured, with nothing to put back."""
    return {name: Variant(way, lambda: None) for name, way in ways.items()}


def measure_wall(ways: Mapping[str, Callable[[], None]]) -> Times:
    """Wall seconds of an epoch, in turn; the processes start in an epoch that does not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for number in range(ROUNDS):
        for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
            began = time.perf_counter()
            ways[name]()
            times[name].append(time.perf_counter() - began)
    return times


def consume(batches: Iterable[object]) -> None:
    """Ask for every batch."""
    for _ in batches:
        pass


def summarise(name: str, count: int, here: Times, there: Times) -> dict[str, Any]:
    """One way: images a second, and shares of the time of torchvision's."""
    return {
        "way": name,
        "images_per_cpu_second": round(count / statistics.median(here[name]), 1),
        "of_torchvision": round(ratio(here, name, VISION), 3),
        "images_per_second_with_workers": round(count / statistics.median(there[name]), 1),
        "of_torchvision_with_workers": round(ratio(there, name, VISION), 3),
    }


def page(record: Mapping[str, Any]) -> str:
    """The record as a table."""
    lines = [
        "| way | images a CPU second, one process | time of torchvision's | images a second, "
        f"{record['workers']} loader processes | time of torchvision's |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {found['way']} | {found['images_per_cpu_second']:.0f} | {found['of_torchvision']:.2f} "
        f"| {found['images_per_second_with_workers']:.0f} "
        f"| {found['of_torchvision_with_workers']:.2f} |"
        for found in record["rows"]
    ]
    versions = list_versions(record)
    return (
        f"# Streaming photographs\n\n{record['date']}, {record['machine']}, one thread, "
        f"{versions}. An epoch of {record['images']} photographs ({record['photographs']}), "
        f"cropped and resized to {SIZE} x {SIZE} pixels and flipped, in batches of {BATCH}, in "
        f"turn, {record['rounds']} rounds; shares are medians of the shares within each round. "
        "In one process CPU seconds are counted. With loader processes, which are kept between "
        "epochs, it is wall time, and counts whatever else the machine did. timm also normalises "
        "the images; ours draws for each image from a generator of its own.\n\n"
        + "\n".join(lines)
        + "\n"
    )


if __name__ == "__main__":
    main()
