"""What an epoch of augmented images costs: kept in memory, and from PIL through torchvision and a
DataLoader.

    python -m benchmarks.loading    # from the repository's root; about a minute

Writes benchmarks/results/loading.json and .md.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from benchmarks.record_files import list_versions, write_record
from benchmarks.side_by_side import Times, Variant, facts, measure, ratio
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from abatis.data.arrays import ArraySplit
from abatis.data.order import epoch_batches
from abatis.system.timm_import import torchvision

RECORD = Path(__file__).parent / "results" / "loading.json"
IMAGES, SIDE, BATCH, ROUNDS = 10_000, 32, 128, 5
LIMIT = 0.15
OURS, PIL = "in memory, crop and flip", "PIL, torchvision and DataLoader, crop and flip"


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images (N, C, H, W) uint8 as PIL pictures, each augmented by torchvision when it is asked
    for.
    """

    def __init__(self, images: Tensor) -> None:
        known = torchvision.transforms
        self.pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        self.transform = known.Compose(
            [
                known.RandomCrop(SIDE, padding=SIDE // 8),
                known.RandomHorizontalFlip(),
                known.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[position]), 0


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    times = measured(IMAGES, ROUNDS)
    rows = [
        {
            "way": name,
            "cpu_seconds": round(statistics.median(seconds), 3),
            "of_pil": round(ratio(times, name, PIL), 4),
        }
        for name, seconds in times.items()
    ]
    record = facts("abatis", "torch", "torchvision", "pillow") | {
        "images": IMAGES,
        "side": SIDE,
        "batch": BATCH,
        "rounds": ROUNDS,
        "limit_of_pil": LIMIT,
        "rows": rows,
    }
    write_record(RECORD, record, page(record))


def measured(count: int, rounds: int) -> Times:
    """CPU seconds of an epoch of ``count`` random images, every way in turn."""
    with torch.random.fork_rng():
        images = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8)
    labels = torch.zeros(count, dtype=torch.int64)
    loader = DataLoader(Pictures(images), BATCH, shuffle=True, drop_last=True)
    ways = {
        OURS: in_memory(images, labels, "crop-flip"),
        "in memory, as they are": in_memory(images, labels, "none"),
    }
    return measure(
        {
            name: Variant(way, nothing)
            for name, way in (ways | {PIL: lambda: consume(loader)}).items()
        },
        rounds,
    )


def in_memory(images: Tensor, labels: Tensor, augment: str) -> Callable[[], None]:
    """An epoch as the trainer draws it."""
    split = ArraySplit(images, labels, augment)
    return lambda: consume(
        split.train_batches(enumerate(epoch_batches(len(split), BATCH, 0, 0)), 0)
    )


def consume(batches: Iterable[object]) -> None:
    """Ask for every batch."""
    for _ in batches:
        pass


def nothing() -> None:
    """There is nothing to put back."""


def page(record: Mapping[str, Any]) -> str:
    """The record as a table."""
    lines = ["| way | CPU s, median | of PIL's |", "|---|---|---|"]
    lines += [
        f"| {found['way']} | {found['cpu_seconds']:.3f} | {found['of_pil']:.3f} |"
        for found in record["rows"]
    ]
    versions = list_versions(record)
    return (
        f"# Loading\n\n{record['date']}, {record['machine']}, {record['threads']} thread(s), "
        f"{versions}. An epoch of "
        f"{record['images']} images of {record['side']} x {record['side']} pixels in batches of "
        f"{record['batch']}, in "
        f"turn, no worker processes, {record['rounds']} rounds; the share is the median of the "
        "shares within each round. The "
        f"goal for augmented images in memory is at most {record['limit_of_pil']}.\n\n"
        + "\n".join(lines)
        + "\n"
    )


if __name__ == "__main__":
    main()
