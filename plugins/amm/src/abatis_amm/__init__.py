"""Adversarial margin maximisation (AMM): options and hook.

The mathematics is in deepfool.py and penalty.py.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from abatis import PluginConfig, Regularizer, Run, hookimpl


class AmmConfig(PluginConfig):
    """The options of AMM: weight, c, d, shrinkage and aggregation of the one published command.

    That command trains an MLP on MNIST from scratch, where the released epsilon is 5e-6; 1e-5 is
    that of all other data. The defaults of the authors' parser are placeholders.
    """

    neutral = {"weight": 0}

    weight: float = Field(32.0, ge=0, description="lambda, the weight of the penalty")
    c: float = Field(
        2.0, gt=0, description="how fast the penalty of a correct sample falls with its margin"
    )
    d: float = Field(
        1.0,
        gt=0,
        description="how fast the penalty of a wrong sample grows with its distance to the true "
        "class",
    )
    shrinkage: Literal["exp", "invprop", "lin", "margin"] = Field(
        "exp", description="function of the margin"
    )
    aggregation: Literal["avg", "min"] = Field(
        "min", description="avg: every sample counts; min: only the worst of each class"
    )
    top_fraction: float = Field(
        0.2, gt=0, le=1, description="share of the batch that counts as worst, for min"
    )
    iterations: int = Field(5, ge=1, le=1000, description="steps of DeepFool")
    candidates: int = Field(
        10, ge=2, description="classes that DeepFool considers: those with the largest logits"
    )
    overshoot: float = Field(
        0.02,
        ge=0,
        le=1,
        description="how far each DeepFool step goes beyond the linearised boundary, as a share of "
        "the step",
    )
    clip: float = Field(
        50.0, gt=0, description="largest penalty of a sample, weight included, for exp and invprop"
    )
    epsilon: float = Field(
        1e-5, gt=0, le=1e-2, description="added to each entry of a gradient inside its norm"
    )
    norm: Literal["L2", "Linf"] = Field(
        "L2", description="norm of the margin; the authors use L2 only"
    )
    relative: bool = Field(
        False, description="divide the margin by the norm of the image, as in Deep Defense"
    )
    positive_only: bool = Field(False, description="penalise correctly classified samples only")
    use_failed: bool = Field(
        False, description="keep samples whose perturbation did not reach the boundary in time"
    )
    backprop_previous: bool = Field(
        True, description="differentiate each DeepFool step through the steps before it"
    )

    @property
    def needs_double_backward(self) -> bool:
        return True


@hookimpl
def defense_config() -> type[PluginConfig]:
    return AmmConfig


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    from abatis_amm.penalty import AdversarialMarginPenalty

    return AdversarialMarginPenalty(run.config(AmmConfig), run.num_classes)
