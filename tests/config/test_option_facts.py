"""What options mean for a run: declared by each option, and the sets that are derived from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from abatis import RunConfig
from abatis.config.option_facts import (
    STEP,
    Facts,
    facts,
    find_options,
    read_facts,
    walk_options,
)
from abatis.config.option_sets import (
    FREE_IN_COMPARISON,
    FREE_ON_RESUME,
    LONGER_ON_RESUME,
    OF_THIS_MACHINE,
    ROUNDED_ON_RESUME,
    VARIED_IN_COMPARISON,
)

FREE = {
    "also_threat",
    "out",
    "workers",
    "data_dir",
    "zoo_dir",
    "download",
    "follow_links",
    "allow_pickle",
    "ladder",
    "subset",
    "checkpoint_every",
    "nproc",
    "max_restarts",
    "track",
}
BESIDE = {
    "name",
    "resume",
    "restart",
    "allow_mismatch",
    "dry_run",
    "forecast",
    "trace",
    "quiet",
    "options",
}


def test_every_option_of_a_run_and_of_its_groups_declares_its_facts():
    """Fails for a new option without ``json_schema_extra=STEP``, or ``facts(...)``."""
    found = dict(walk_options(RunConfig))
    assert {"attack.steps", "optim.lr", "mix.mixup", "extra.file"} < found.keys()
    assert len(found) > 70


def test_an_option_without_facts_is_an_error_that_names_it():
    class Group(BaseModel):
        new: int = 0

    class Model(BaseModel):
        old: int = Field(0, json_schema_extra=STEP)
        group: Group = Field(Group(), json_schema_extra=STEP)

    with pytest.raises(TypeError, match=r"'group\.new' declares no facts"):
        list(walk_options(Model))


def test_groups_are_recorded_whole_and_none_of_their_options_is_of_this_machine():
    """``run.toml`` and published options leave out whole options, not parts of groups."""
    inside = {name: known for name, known in walk_options(RunConfig) if "." in name}
    assert all(known.recorded and not known.this_machine for known in inside.values())


@pytest.mark.parametrize(
    ("derived", "literal"),
    [
        (FREE_ON_RESUME, FREE),
        (FREE_IN_COMPARISON, FREE | {"device", "layout"}),
        (VARIED_IN_COMPARISON, {"plugin", "seed"}),
        (
            OF_THIS_MACHINE,
            {
                "allow_pickle",
                "out",
                "data_dir",
                "zoo_dir",
                "device",
                "download",
                "follow_links",
                "workers",
            },
        ),
        (ROUNDED_ON_RESUME, {"deterministic", "device", "layout", "tf32"}),
        (LONGER_ON_RESUME, {"epochs"}),
        (find_options(RunConfig, lambda known: not known.recorded), BESIDE),
        (find_options(RunConfig, lambda known: known.display_only), {"trace", "quiet"}),
    ],
)
def test_the_derived_sets(derived, literal):
    assert derived == literal


def test_run_toml_has_all_but_what_is_not_recorded():
    full = RunConfig(
        name="x",
        backbone_activation="silu",
        backbone_padding="same",
        init=Path("w"),
        continue_from=Path("r"),
        weights_key="ema",
        limit=5,
        workers=2,
        subset=5,
        epoch_updates=5,
        image_size=32,
        checkpoint_every=3,
        validation=100,
        attack={"step_size": "1/255"},
        extra={"file": "e.npz"},
    )
    assert full.to_toml().keys() == RunConfig.model_fields.keys() - BESIDE


def test_an_option_that_changes_no_step_is_free_unless_it_says_otherwise():
    field = Field(0, json_schema_extra=facts(changes_step=False, on_resume="equal"))
    assert read_facts("x", field) == Facts(
        changes_step=False, on_resume="equal", in_comparison="free"
    )
    assert read_facts("x", Field(0, json_schema_extra=STEP)) == Facts()
    with pytest.raises(TypeError, match="chnges_step"):
        facts(chnges_step=False)
