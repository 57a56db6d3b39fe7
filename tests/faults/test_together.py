"""F8, F11, F12, F13: two processes, one of which meets something that the other does not."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from datetime import timedelta

import pytest
import torch
from torch import nn

from abatis import Term
from abatis.data import epoch_batches
from abatis.system import distributed
from abatis.train.checkpoint import load_checkpoint
from tests.faults import before_step, together, train
from tests.helpers import final_bytes, plugin

SOFT = 10.0  # seconds, enough for two processes to find each other on a busy machine


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory):
    """What a first run imports, the children have from here."""
    train(tmp_path_factory.mktemp("warm"))


def ask():
    os.kill(os.getpid(), signal.SIGTERM)


def test_f8_signals_300_ms_apart_stop_both_after_the_same_step(tmp_path):
    """The second one comes when the state is saved: it ends nobody, and says nothing new."""
    assert together(2, lambda rank: train(tmp_path / "whole")) == [0, 0]

    def work(rank):
        before_step(4, ask if rank == 0 else threading.Timer(0.3, ask).start)
        try:
            train(tmp_path)
        finally:
            time.sleep(1 if rank else 0)  # until it has come

    assert together(2, work) == [75, 75]
    assert load_checkpoint(tmp_path / "r" / "checkpoints").step == 5
    assert together(2, lambda rank: train(tmp_path, resume=True)) == [0, 0]
    assert final_bytes(tmp_path / "r") == final_bytes(tmp_path / "whole" / "r")


def test_f11_where_one_raises_the_others_end_and_the_plugin_is_named(tmp_path, install, capfd):
    def penalty(ctx):
        return {
            "x": Term(
                ctx.logits_adv.square().sum(1)
                / (1 if ctx.step < 3 or distributed.rank() == 0 else {})
            )
        }

    install(plugin("rogue", regularizer=lambda run: penalty))
    began = time.monotonic()
    assert together(2, lambda rank: train(tmp_path, plugin=["rogue"])) == [1, 1]
    assert time.monotonic() - began < 60
    told = capfd.readouterr().out
    assert "plugin 'rogue' failed in its regularizer: TypeError" in told
    assert f"{__file__}:" in told
    assert "in penalty, version 1.0" in told
    assert "another process of this run has ended\n  where: process 0, after step 3 of 8" in told


@pytest.mark.slow
@pytest.mark.parametrize("skips", [0, 1])
def test_f12_where_one_skips_an_exchange_the_wait_ends(tmp_path, install, capfd, skips):
    def penalty(ctx):
        values = ctx.logits_adv.square().sum(1)
        if ctx.step < 3 or distributed.rank() != skips:
            ctx.gather(values.detach())
        return {"x": Term(values)}

    def work(rank):
        distributed.SILENCE = timedelta(seconds=SOFT)
        train(tmp_path, plugin=["rogue"])

    install(plugin("rogue", regularizer=lambda run: penalty))
    assert together(2, work) == [1, 1]
    told = capfd.readouterr().out
    assert "another process of this run stopped responding" in told
    assert "after step 3 of 8" in told
    assert load_checkpoint(tmp_path / "r" / "checkpoints").step == 3


def odd_loss(logits):
    return (logits * float("nan")).sum(1)


def odd_gradient(logits):
    return (0 * logits).square().sum(1).sqrt()


@pytest.mark.parametrize(
    ("penalty", "said", "mean"),
    [
        (odd_loss, "term 'rogue/x' is nan", "nan"),
        (odd_gradient, "the gradient of term 'rogue/x' is not finite", 0),
    ],
)
def test_f13_where_one_has_no_number_none_makes_the_update(
    tmp_path, install, capfd, penalty, said, mean
):
    def late(ctx):
        odd = ctx.step == 5 and distributed.rank() == 1
        return {"x": Term(penalty(ctx.logits_adv) if odd else 0 * ctx.logits_adv.sum(1))}

    def work(rank):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        try:
            train(tmp_path, model=network, plugin=["rogue"], checkpoint_every=1, ema=0)
        finally:
            torch.save(network.state_dict(), tmp_path / f"{rank}.pt")

    install(plugin("rogue", regularizer=lambda run: late))
    assert together(2, work) == [4, 4]
    assert capfd.readouterr().out.count(said) == 2
    before = load_checkpoint(tmp_path / "r" / "checkpoints")
    assert before.step == 5
    for rank in (0, 1):
        after = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(after[name], weight) for name, weight in before.weights.items())
    dump = json.loads((tmp_path / "r" / "not-finite.json").read_text())
    assert (dump["step"], dump["epoch"], dump["seed"]) == (5, 1, 0)
    assert dump["batch"] == epoch_batches(135, 32, 0, 1)[1].tolist()
    assert dump["terms"].keys() == {"ce", "rogue/x"}
    assert dump["terms"]["rogue/x"] == mean
