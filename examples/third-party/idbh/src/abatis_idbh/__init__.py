"""IDBH and cutmix: options and hook. The transforms are in transforms.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from abatis import PluginConfig, Run, TrainerHooks, hookimpl

DEFENSE_API = "1.0"


class IdbhConfig(PluginConfig):
    """The options of IDBH, with the defaults of the weak version; the strong one has erase = 1."""

    neutral = {"flip": 0, "shift": 0, "colour": 0, "erase": 0, "cutmix": 0}
    soft_labels = True

    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    shift: int = Field(
        10,
        ge=0,
        le=1000,
        description="largest number of pixels that crop-shift removes, in height and in width",
    )
    colour: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="largest relative change of either brightness or contrast",
    )
    erase: float = Field(0.5, ge=0, le=1, description="probability that a rectangle is erased")
    erase_area: float = Field(
        0.33, gt=0, le=1, description="largest fraction of an image that is erased, from 0.02"
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability that a rectangle comes from another image of the batch",
    )
    fill: Literal["black", "grey"] = Field(
        "black", description="colour of removed and erased regions"
    )


@hookimpl
def defense_config() -> type[PluginConfig]:
    return IdbhConfig


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    from abatis_idbh.transforms import Idbh

    return Idbh(run, run.config(IdbhConfig))
