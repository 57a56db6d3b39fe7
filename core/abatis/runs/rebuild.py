"""Builds a named model again, in another process."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from abatis.data import DataInfo
from abatis.evaluate.stranger.origin import Origin
from abatis.nets.label_map import LabelMap
from abatis.runs.model_spec import ModelSpec, Wishes, find_model
from abatis.runs.open_model import open_model

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
        {
            "spec": subject.spec,
            "backbone": subject.backbone,
            "info": _as_plain(facts),
            "wishes": _as_plain(asdict(subject.wishes)),
        },
    )


def describe_run_origin(folder: Path, info: DataInfo) -> Origin:
    """Return how another process builds the network of a run folder."""
    return describe_origin(find_model(str(folder.absolute())), info)


def rebuild_model(
    spec: str, backbone: str | None, info: dict[str, Any], wishes: dict[str, Any]
) -> nn.Module:
    """Build what the user named, on the CPU.

    Raises:
        UsageError: it cannot be loaded.
    """
    tuples = ("mean", "std", "class_names")
    facts = DataInfo(**{**info, **{name: tuple(info[name]) for name in tuples}})
    label_map = wishes["label_map"]
    asked = Wishes(
        **{
            **wishes,
            "allow_pickle": True,  # it was allowed before
            "statistics": _as_tuples(wishes["statistics"]),
            "label_map": label_map and LabelMap(**{k: _as_tuples(v) for k, v in label_map.items()}),
        }
    )
    module, _, _ = open_model(find_model(spec, backbone, wishes=asked), facts, torch.device("cpu"))
    return module


def _as_plain(value: Any) -> Any:
    """Tuples as lists: a message holds plain types."""
    if isinstance(value, dict):
        return {name: _as_plain(one) for name, one in value.items()}
    return [_as_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
