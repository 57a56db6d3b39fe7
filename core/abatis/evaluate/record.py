"""What a record of an evaluation holds besides its numbers."""

from __future__ import annotations

from typing import Any

from torch import nn

from abatis.api.threat import Threat
from abatis.data import DataInfo, Split
from abatis.data.digest import digest_split
from abatis.nets.digest import weights_digest


def describe_choice(points: Split, test: Split) -> dict[str, Any]:
    """Return which test images were judged, as indices; empty where these are all."""
    return {} if len(points) == len(test) else {"points": points.index.tolist()}


def describe_evaluation(
    model: str, module: nn.Module, info: DataInfo, points: Split, threat: Threat | None, seed: int
) -> dict[str, Any]:
    """Return what was judged, on what, and how, in plain types.

    Args:
        model: as the user named it.
        module: the network.
        info: on the data.
        points: the images that were judged.
        threat: norm and radius of the record's own numbers; None where no attack ran.
        seed: of the attacks.
    """
    return {
        "model": model,
        **({} if threat is None else {"threat": str(threat)}),
        "data": info.name,
        "num_classes": info.num_classes,
        **({"class_names": list(info.class_names)} if info.class_names else {}),
        "note": info.note,
        "points_sha256": digest_split(points),
        "seed": seed,
        "weights_sha256": weights_digest(module),
    }
