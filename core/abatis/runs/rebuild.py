"""Builds a named model again, in another process."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from abatis.data import DataInfo
from abatis.evaluate.stranger.origin import Origin
from abatis.nets.backbones import unwrap
from abatis.nets.label_map import LabelMap, SelectOutputs
from abatis.nets.outputs import attach_hooks, describe_hooks, unwrap_parallel
from abatis.runs.model_spec import ModelSpec, Wishes, find_model
from abatis.runs.open_model import Sizes, open_network

FUNCTION = "abatis.runs.rebuild:rebuild_model"


def describe_origin(subject: ModelSpec, info: DataInfo, module: nn.Module) -> Origin:
    """Return how another process builds a model.

    Args:
        subject: the model, already found.
        info: the facts of the data that it is judged on.
        module: the model as it was opened; its hooks are put on the other one, so that the other
            process need not look at what the network returns.
    """
    facts = {**asdict(info), "view": None}
    network = module.network if isinstance(module, SelectOutputs) else module
    hooks = [describe_hooks(one) for one in _list_hooked(network)]
    return Origin(
        FUNCTION,
        {
            "spec": subject.spec,
            "backbone": subject.backbone,
            "info": _as_plain(facts),
            "wishes": _as_plain(asdict(subject.wishes)),
            "hooks": hooks,
        },
    )


def describe_run_origin(folder: Path, info: DataInfo, module: nn.Module) -> Origin:
    """Return how another process builds the network of a run folder."""
    return describe_origin(find_model(str(folder.absolute())), info, module)


def rebuild_model(
    spec: str,
    backbone: str | None,
    info: dict[str, Any],
    wishes: dict[str, Any],
    hooks: list[list[dict[str, Any]]],
) -> nn.Module:
    """Build what the user named, on the CPU. The network is not run: nothing is its first image.

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
            "label_map": label_map and LabelMap(**{k: _as_tuples(v) for k, v in label_map.items()}),
        }
    )
    found = find_model(spec, backbone, wishes=asked)
    loaded = open_network(found, Sizes.of(facts, asked), torch.device("cpu"))
    module, _ = unwrap_parallel(loaded.module)
    module.eval()
    for one, described in zip(_list_hooked(module), hooks, strict=True):
        attach_hooks(one, described)
    outputs = asked.label_map.outputs if asked.label_map else None
    return module if outputs is None else SelectOutputs(module, outputs)


def _list_hooked(network: nn.Module) -> list[nn.Module]:
    """The parts that hooks are on: the network, and what is inside its normalisation."""
    inner = unwrap(network)
    return [network] if inner is network else [network, inner]


def _as_plain(value: Any) -> Any:
    """Tuples as lists: a message holds plain types."""
    if isinstance(value, dict):
        return {name: _as_plain(one) for name, one in value.items()}
    return [_as_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
