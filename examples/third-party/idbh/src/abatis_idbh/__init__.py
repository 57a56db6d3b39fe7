"""IDBH and cutmix: options and hook; the transforms are in transforms.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from abatis import PluginConfig, Run, TrainerHooks, hookimpl

DEFENSE_API = "1.0"


class IdbhConfig(PluginConfig):
    """The defaults are those of the weak version; the strong one erases every image."""

    neutral = {"flip": 0, "shift": 0, "colour": 0, "erase": 0, "cutmix": 0}
    soft_labels = True

    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    shift: int = Field(
        10,
        ge=0,
        le=1000,
        description="most pixels that crop-shift cuts off, in height and in width",
    )
    colour: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="largest relative change of brightness or contrast, one of the two",
    )
    erase: float = Field(0.5, ge=0, le=1, description="probability that a rectangle is erased")
    erase_area: float = Field(
        0.33, gt=0, le=1, description="largest share of an image that is erased; the least is 0.02"
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability that a rectangle comes from another image of the batch",
    )
    fill: Literal["black", "grey"] = Field(
        "black", description="what is where an image was cut or erased"
    )


@hookimpl
def defense_config() -> type[PluginConfig]:
    return IdbhConfig


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    from abatis_idbh.transforms import Idbh

    return Idbh(run, run.config(IdbhConfig))
