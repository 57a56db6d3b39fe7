"""Backbones for tests, and what is said where one cannot be made."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from abatis.errors import UsageError
from abatis.nets.backbones import build


def make(
    name: str, *, channels: int = 3, image_size: int = 32, num_classes: int = 10, **options: Any
) -> nn.Module:
    options = {"mean": [0.5] * channels, "std": [0.25] * channels, **options}
    return build(name, num_classes=num_classes, channels=channels, image_size=image_size, **options)


def refusal(name: str, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        make(name, **options)
    text = str(caught.value)
    assert len(text.splitlines()) <= 4
    return text
