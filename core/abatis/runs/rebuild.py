"""Builds a named model again, in another process."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from abatis.data import DataInfo
from abatis.evaluate.stranger.origin import Origin
from abatis.runs.model_spec import ModelSpec, find_model

FUNCTION = "abatis.runs.rebuild:rebuild_model"


def describe_origin(subject: ModelSpec, info: DataInfo) -> Origin:
    """Return how another process builds a model.

    Args:
        subject: the model, already found.
        info: the facts of the data that it is judged on.
    """
    facts = {**asdict(info), "view": None}
    return Origin(
        FUNCTION,
        {"spec": subject.spec, "backbone": subject.backbone, "info": _as_plain(facts)},
    )


def describe_run_origin(folder: Path, info: DataInfo) -> Origin:
    """Return how another process builds the network of a run folder."""
    return describe_origin(ModelSpec(str(folder.absolute()), None, None), info)


def rebuild_model(spec: str, backbone: str | None, info: dict[str, Any]) -> nn.Module:
    """Build what the user named, on the CPU.

    Raises:
        UsageError: it cannot be loaded.
    """
    tuples = ("mean", "std", "class_names")
    facts = DataInfo(**{**info, **{name: tuple(info[name]) for name in tuples}})
    subject = find_model(spec, backbone, allow_pickle=True)  # it was allowed before
    module, _ = subject.load(facts, torch.device("cpu"))
    return module


def _as_plain(facts: dict[str, Any]) -> dict[str, object]:
    """Tuples as lists: a message holds plain types."""
    return {name: list(one) if isinstance(one, tuple) else one for name, one in facts.items()}
