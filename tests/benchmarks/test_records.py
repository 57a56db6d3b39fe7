"""Records: every one can start, a small one is made, and the table shows what there is."""

from __future__ import annotations

import json

import pytest
from benchmarks.records import making, settings
from benchmarks.records.bands import Band, describe_place, find_band
from benchmarks.records.making import Order, make
from benchmarks.records.page import COLUMNS, page, write
from benchmarks.records.settings import RECORDS, SCALES, options_of

from abatis import RunConfig
from tests.helpers import TINY, plugin

FAKE = {
    "record": "at",
    "scale": "full",
    "date": "2026-01-02",
    "note": "lr 0.2 tried",
    "epochs": 30,
    "config": {"seed": 0, "backbone": "resnet18"},
    "points": 1000,
    "of": 10_000,
    "why_not_all": "no accelerator",
    "clean_acc": 0.8,
    "pgd20_acc": 0.5,
    "autoattack_acc": 0.461,
    "robust_acc": 0.46,
    "verdict": "WARN",
    "findings": ["D9 spoke"],
    "device": "cpu",
    "wall_seconds": {"training": 61.4, "evaluation": 9.9},
    "processor_seconds": {"training": 50, "evaluation": 8},
}


@pytest.fixture
def order(tmp_path, monkeypatch):
    """The record ``at`` on a few digits."""
    small = {
        **{
            key: TINY[key]
            for key in ("backbone", "data", "limit", "batch_size", "threat", "attack")
        },
        "epochs": 1,
    }
    monkeypatch.setitem(settings.SETTING, "small", small)
    monkeypatch.setitem(settings.POINTS, "small", 8)
    return Order("at", "small", "cpu", tmp_path / "data", tmp_path / "runs")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", RECORDS)
def test_every_record_is_a_run_that_can_start(name, scale):
    config = RunConfig(**options_of(name, scale))
    assert (config.data, config.threat) == ("cifar10", "Linf:8/255")
    assert config.seed == RECORDS[name].seed
    assert all(options.idle_epochs < config.epochs for options in config.options.values())


def test_a_record_says_what_where_and_how_far(order):
    record = make(order)
    assert (record["points"], record["of"], record["why_not_all"]) == (8, 10_000, "small scale")
    assert (record["epochs"], record["best_epoch"], record["device"]) == (1, 1, "cpu")
    assert 0 <= record["robust_acc"] <= record["autoattack_acc"] <= record["clean_acc"] <= 1
    assert record["verdict"] in ("PASS", "UNDECIDED", "WARN", "FAIL")
    assert (
        set(record["wall_seconds"])
        == set(record["processor_seconds"])
        == {"training", "evaluation"}
    )
    assert record["libraries"]["torch"]
    assert len(record["config_sha256"]) == 64
    assert str(order.out) not in json.dumps(record)


def test_a_second_command_trains_and_judges_no_second_time(order, monkeypatch):
    first = make(order)
    monkeypatch.setattr(making, "evaluate", None)
    again = make(order)
    assert again["weights_sha256"] == first["weights_sha256"]
    assert again["interval"] == first["interval"]


def test_a_speed_record_begins_anew_and_says_whether_it_got_there(order, monkeypatch):
    monkeypatch.setitem(RECORDS, "at", settings.Record({}, target=1.1))
    record = make(order)
    assert record["reached"] is False
    assert not order.config().resume


def test_a_run_that_fails_is_a_record(order, monkeypatch, install):
    def hopeless(run):
        raise ValueError("no hope")

    install(plugin("hopeless", loss=hopeless))
    monkeypatch.setitem(RECORDS, "at", settings.Record({"plugin": ["hopeless"]}))
    assert "no hope" in make(order)["failed"]


def test_the_table_has_what_there_is_and_why_the_rest_is_not(tmp_path):
    (tmp_path / "why.toml").write_text('[full]\nall = "time"\nsovr = "memory"\n')
    write({**FAKE, "date": "2026-01-01", "clean_acc": 0.1}, tmp_path)
    write(FAKE, tmp_path)
    write({**FAKE, "record": "speed-43", "target": 0.432, "reached": True}, tmp_path)
    write(
        {"record": "mart", "scale": "full", "date": "2026-01-02", "failed": "NotFiniteError: x"},
        tmp_path,
    )
    text = page(tmp_path, tmp_path / "why.toml")
    assert (
        "| at | 0 | 30 | 80.00 | 50.00 | 46.10 | 46.00 | 1,000 of 10,000 (no accelerator) | WARN "
        "| 61 / 50 | 10 / 8 | cpu | 2026-01-02 | inside 46.82-48.72 |" in text
    )
    for line in (
        "* at: D9 spoke",
        "* at: lr 0.2 tried",
        "* speed-43: AutoAttack 43.2 reached in 61.4 s",
        "* sovr: memory",
    ):
        assert line in text.splitlines()
    reasons = dict(
        line.removeprefix("* ").rsplit(": ", 1)[::-1]
        for line in text.splitlines()
        if line.startswith("* ")
    )
    assert reasons["time"].startswith("trades, mail+trades")
    assert "sovr" not in reasons["time"]
    assert reasons["not yet"].startswith(
        "at, trades"
    )  # at small scale there is nothing, and no reason
    records, published = text.split("## Published numbers")
    assert "| mart | resnet18 | AutoAttack | 47.51 |" in published
    rows = [line for line in records.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {len(COLUMNS) + 1}


@pytest.mark.parametrize(
    ("share", "place"), [(0.45, "below"), (0.49, "inside"), (0.4949, "inside"), (0.52, "above")]
)
def test_a_record_is_held_against_the_published_numbers(share, place):
    """95 % of 10,000 points: within about 1 point of the share."""
    band = Band("x", "resnet18", "AutoAttack", (48.0, 49.0), "by hand")
    assert band.place(share, 10_000) == place
    assert band.place(0.52, 100) == "inside"  # so few points say little


def test_a_record_at_small_scale_or_of_another_network_has_no_band():
    assert describe_place({**FAKE, "scale": "small"}) == ""
    assert describe_place({**FAKE, "record": "at-seed2"}).startswith("inside")
    assert describe_place({**FAKE, "config": {"backbone": "wrn34"}}) == ""
    assert find_band("at", "preactresnet18") is None  # PGD-20 only
