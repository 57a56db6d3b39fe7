"""What is built in: one line in a table adds an attack, a loss or a tracker."""

from __future__ import annotations

import json

import pytest

import abatis
from abatis import Attacked, Term
from abatis.config import built_in
from abatis.errors import UsageError
from abatis.nets.net import Net
from abatis.testing import plan_of, tiny_batch, tiny_network
from abatis.train.trackers import Tracker
from tests.helpers import tiny


class Shifted:
    """A made-up attack: every pixel moves by half the radius towards 0.5."""

    def __init__(self, run):
        self.options = {"length": "half"}
        self.length = run.threat.eps / 2

    def __call__(self, forward, batch):
        return Attacked(batch.x + self.length * (0.5 - batch.x).sign())


def make_halved(run):
    return lambda ctx: {"half": Term(0.5 * ctx.logits_adv.logsumexp(1))}


class Recorder(Tracker):
    """A made-up tracker, without a library of its own."""

    version = "7"

    def write(self, values, epoch):
        with (self.folder / "kept.txt").open("a") as file:
            file.write(f"{epoch} {' '.join(sorted(values))}\n")

    def close(self, finished):
        (self.folder / "closed.txt").write_text(str(finished))


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setitem(built_in.ATTACKS, "shifted", f"{__name__}:Shifted")
    monkeypatch.setitem(built_in.LOSSES, "halved", f"{__name__}:make_halved")
    monkeypatch.setitem(built_in.TRACKERS, "kept", f"{__name__}:Recorder")


@pytest.mark.usefixtures("made_up")
def test_a_line_adds_an_attack_and_a_loss():
    batch = tiny_batch(4, 10)
    plan = plan_of(
        net=Net(tiny_network(10)), num_classes=10, use={"attacker": "shifted", "loss": "halved"}
    )
    moved = plan.attacker(None, batch).x - batch.x
    assert moved.abs().max().item() == pytest.approx(8 / 255 / 2)
    shown = {row.role: (row.provider, row.version, row.options) for row in plan.rows}
    assert shown["attacker"] == ("shifted", "built-in", {"length": "half"})
    assert shown["loss"] == ("halved", "built-in", {})


@pytest.mark.usefixtures("made_up")
def test_a_misspelt_provider_is_told_the_new_name(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'shifted'"):
        abatis.run(tiny(tmp_path, use={"attacker": "shiftet"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("made_up")
def test_a_line_adds_a_tracker(tmp_path):
    folder = abatis.run(tiny(tmp_path, use={"attacker": "shifted"}, track=["kept"])).folder
    rows = [line.split() for line in (folder / "kept.txt").read_text().splitlines()]
    assert [row[0] for row in rows] == ["1", "2"]
    assert all("train_robust_acc" in row for row in rows)
    assert (folder / "closed.txt").read_text() == "True"
    plan = json.loads((folder / "plan.json").read_text())
    assert {"role": "trainer", "provider": "kept", "version": "7", "options": {}} in plan


@pytest.mark.parametrize("name", built_in.ATTACKS)
def test_every_attack_of_the_table_makes_images_in_the_ball(name):
    batch, net = tiny_batch(4, 10), Net(tiny_network(10))
    plan = plan_of(net=net, num_classes=10, use={"attacker": name})
    with net.attack_mode():
        attacked = plan.attacker(net, batch)
    assert (attacked.x - batch.x).abs().max().item() <= 8 / 255 + 1e-6
    assert (name == "none") == (attacked.x is batch.x)


def test_the_places_of_trackers_are_modules_of_the_core():
    for place in built_in.TRACKERS.values():
        module, _, name = place.partition(":")
        source = abatis.__path__[0] + module.removeprefix("abatis").replace(".", "/") + ".py"
        with open(source) as file:
            assert f"class {name}(Tracker)" in file.read()


def test_an_unknown_tracker_is_told_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match="tensorboard"):
        tiny(tmp_path, track=["tensorbord"])


def test_the_places_resolve():
    for table in (built_in.ATTACKS, built_in.LOSSES):
        for place in table.values():
            assert callable(built_in.load_built_in(place))
