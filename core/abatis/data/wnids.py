"""The 1,000 classes of ImageNet by their WordNet numbers, from the lists that timm brings."""

from __future__ import annotations

from pathlib import Path

from abatis.system.timm_import import timm

IMAGENET = "imagenet_synsets.txt"  # sorted: a class is the output of its place


def read_wnids(name: str = IMAGENET) -> tuple[str, ...]:
    """The lines of a list of timm's."""
    folder = Path(timm.data.__file__).parent / "_info"
    return tuple((folder / name).read_text(encoding="utf-8").split())
