"""Times of the training in plugins' options: epochs, or shares of the training in their place."""

from __future__ import annotations

import re

import pytest
from pydantic import Field

from abatis import PluginConfig, RunConfig, Share, run
from abatis.cli import run as defense_run
from abatis.config import discovery
from abatis.runs.times import warn_about_times
from tests.helpers import final_bytes, our_plugins, tiny


class Dated(PluginConfig):
    shares = {"decay_epochs": "decay_at", "burn_in": "begin_at"}

    decay_epochs: tuple[int, ...] = Field((60, 90), description="epochs")
    decay_at: tuple[Share, ...] | None = Field(None, description="shares")
    burn_in: int = Field(3, ge=0, description="epochs")
    begin_at: Share | None = Field(None, description="share")


def notes_of(epochs: int, plugin: str, steps_per_epoch: int | None = 10, **options) -> list[str]:
    config = RunConfig(plugin=[plugin], epochs=epochs, options={plugin: options})
    return warn_about_times(config, steps_per_epoch)


def test_counts_epochs_or_shares():
    config = Dated()
    found = [config.count_past("decay_epochs", epoch, 0.99) for epoch in (59, 60, 89, 90)]
    assert found == [0, 1, 1, 2]
    assert [config.count_past("burn_in", epoch, 0.99) for epoch in (2, 3, 4)] == [0, 1, 1]
    config = Dated(decay_at=(0.9, 0.6), begin_at=0.25)
    found = [config.count_past("decay_epochs", 100, part / 10) for part in (5, 6, 8, 9)]
    assert found == [0, 1, 1, 2]
    assert [config.count_past("burn_in", 100, part / 4) for part in (0, 1, 2)] == [0, 1, 1]


def test_shares_of_an_option_that_is_not_there_are_refused():
    with pytest.raises(TypeError, match=r"Wrong.shares names decay_att, which is none"):

        class Wrong(PluginConfig):
            shares = {"decay": "decay_att"}

            decay: int = Field(1, ge=0, description="epochs")


@pytest.mark.parametrize("name", our_plugins())
def test_every_option_that_counts_epochs_has_one_of_shares(name):
    options = discovery.load_plugin(name).config_class
    for option, field in options.model_fields.items():
        number = isinstance(field.default, int | float | tuple)
        counts = number and re.search(r"\bepochs?\b", field.description or "")
        if counts and not isinstance(field.default, bool):
            assert option in options.shares, option
    for option, shares in options.shares.items():
        assert {option, shares} <= options.model_fields.keys()
        assert options.model_fields[shares].default is None  # released epochs are the default


@pytest.mark.parametrize(
    ("plugin", "epochs", "options", "expected"),
    [
        (
            "emr",
            20,
            {},
            "--emr.decay-epochs: a run of 20 epochs ends before epoch 60 and 90; --emr.decay-at"
            " takes shares of the training",
        ),
        (
            "emr",
            60,
            {},
            "--emr.decay-epochs: a run of 60 epochs ends before epoch 90; --emr.decay-at takes"
            " shares of the training",
        ),
        ("emr", 90, {}, None),
        ("emr", 20, {"decay_at": [0.6, 0.9]}, None),
        (
            "emr",
            90,
            {"decay_epochs": [5], "decay_at": [0.6]},
            "--emr.decay-epochs 5 has no effect with --emr.decay-at",
        ),
        ("mail", 77, {}, None),
        ("mail", 2, {"begin_at": 0.6}, None),
        (
            "gairat",
            59,
            {},
            "gairat begins after epoch 59; it will have no effect in a run of 59 epochs;"
            " --gairat.begin-at takes a share of the training",
        ),
        ("gairat", 59, {"begin_at": 0.5}, None),
        (
            "awp",
            2,
            {"begin_at": 0.96},
            "--awp.begin-at 0.96: the last of 20 steps begins at 0.95",
        ),
        ("awp", 2, {"begin_at": 0.95}, None),
        ("seat", 4, {}, None),  # its other average has no start
        ("seat", 4, {"average": "swa", "begin_at": 0.5}, None),
        (
            "grad-norm",
            5,
            {},
            "--grad-norm.ramp: a run of 5 epochs ends before epoch 6; --grad-norm.full-at takes"
            " shares of the training",
        ),
        ("grad-norm", 6, {}, None),
        ("grad-norm", 5, {"full_at": 0.5}, None),
        ("grad-norm", 1, {"ramp_start": 1.0}, None),
    ],
)
def test_notes(plugin, epochs, options, expected):
    assert notes_of(epochs, plugin, **options) == ([] if expected is None else [expected])


def test_without_images_nothing_is_said_about_steps():
    assert notes_of(2, "awp", None, begin_at=0.99) == []


@pytest.mark.parametrize(("burn_in", "warned"), [(3, True), (2, True), (1, False)])
def test_a_plugin_that_begins_too_late_is_named_before_the_run(burn_in, warned, tmp_path, capsys):
    line = ["--plugin", "mail", "--backbone", "resnet8", "--epochs", "2", "--dry-run"]
    line += ["--data-dir", str(tmp_path), "--mail.burn-in", str(burn_in)]
    assert defense_run(line) == 0
    found = f"mail begins after epoch {burn_in}; it will have no effect" in capsys.readouterr().out
    assert found is warned


def test_a_share_at_the_start_of_an_epoch_is_that_number_of_epochs(tmp_path):
    """Half of two epochs is one: the same weights, bit for bit; by default none is weighted."""
    first, second = (
        final_bytes(
            run(tiny(tmp_path, name=name, plugin=["mail"], options={"mail": options})).folder
        )
        for name, options in (
            ("share", {"begin_at": 0.5}),
            ("epochs", {"burn_in": 1}),
        )
    )
    assert first == second
