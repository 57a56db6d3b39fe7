"""The study file, and what Optuna says of it."""

from __future__ import annotations

import pytest

from abatis import UsageError
from abatis.commands.sweep.space import parse_spaces
from abatis.commands.sweep.study_file import STUDY, Trial, open_study

SPACES = parse_spaces(["optim.lr=log:0.01:1", "attack.steps=int:1:9"])


def trial(lr, steps, robust, clean, epochs=(), state="finished"):
    return Trial({"optim.lr": lr, "attack.steps": steps}, state, list(epochs), robust, clean)


TRIALS = [
    trial(0.01, 1, 0.2, 0.9, [0.1, 0.2]),
    trial(0.1, 2, 0.5, 0.8, [0.3, 0.5]),
    trial(0.2, 3, 0.6, 0.6, [0.4, 0.6]),
    trial(0.4, 4, 0.4, 0.7, [0.3, 0.4]),
    trial(0.8, 5, None, None, [0.0], "pruned"),
    trial(0.9, 5, None, None, [], "failed"),
]


@pytest.fixture
def advise():
    pytest.importorskip("optuna")
    from abatis.commands.sweep.advice import Adviser

    return lambda *objectives: Adviser(SPACES, objectives or ("robust",), 0)


def test_the_study_goes_on_from_its_file(tmp_path):
    study = open_study(tmp_path / "s", {"seeds": 1})
    study.trials += TRIALS
    study.save()
    again = open_study(tmp_path / "s", {"seeds": 1})
    assert again.trials == TRIALS
    with pytest.raises(UsageError, match="another seeds"):
        open_study(tmp_path / "s", {"seeds": 2})
    (tmp_path / "s" / STUDY).write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        open_study(tmp_path / "s", {"seeds": 1})


def test_the_next_values_depend_on_the_trials_alone(advise):
    chosen = advise().choose_values(TRIALS)
    assert chosen == advise().choose_values(TRIALS)
    assert chosen != advise().choose_values(TRIALS[:3])
    assert 0.01 <= chosen["optim.lr"] <= 1
    assert chosen["attack.steps"] in range(1, 10)


def test_a_trial_is_pruned_below_the_median_of_the_others(advise):
    """At epoch 2 the others have 0.2, 0.5, 0.6 and 0.4: the median is 0.45."""
    running = trial(0.3, 6, None, None, [0.9, 0.44], "started")
    better = trial(0.3, 6, None, None, [0.0, 0.46], "started")
    first = trial(0.3, 6, None, None, [0.0], "started")
    for one, hopeless in ((better, False), (first, False)):
        assert advise().is_hopeless([*TRIALS, one], len(TRIALS)) is hopeless
    running.epochs = [0.1, 0.44]
    assert advise().is_hopeless([*TRIALS, running], len(TRIALS))


def test_the_best_and_the_front(advise):
    """Of (robust, clean), the last of the four is surpassed by the second in both."""
    assert advise().find_best(TRIALS) == [2]
    assert advise("clean").find_best(TRIALS) == [0]
    assert advise("robust", "clean").find_best(TRIALS) == [2, 1, 0]
    assert advise().find_best(TRIALS[4:]) == []


def test_importances_are_shares(advise):
    found = advise().measure_importance(TRIALS)
    assert found.keys() == {"optim.lr", "attack.steps"}
    assert sum(found.values()) == pytest.approx(1)
    assert advise().measure_importance(TRIALS[:3]) == {}
