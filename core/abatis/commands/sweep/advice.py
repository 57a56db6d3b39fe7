"""What Optuna says: the next values, whether to go on, the best trials, what mattered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from abatis.commands.sweep.space import Space, Value
from abatis.commands.sweep.study_file import Trial
from abatis.errors import UsageError
from abatis.report.words import format_percent

FIRST_AT_RANDOM = 8  # trials that are drawn before the search learns from them
UNPRUNED = 4  # trials that run to their end before one may be pruned
ENOUGH = 4  # finished trials from which importances are computed


def load_optuna() -> Any:
    """The library, silent; raises UsageError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "defense sweep needs optuna, which is not installed", fix="pip install 'abatis[sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Adviser:
    """Optuna, told of all trials so far. The study file is ours; each answer is made from it.

    Args:
        spaces: what is searched.
        objectives: what is maximised.
        seed: of the draws; those of a trial depend on it and on the trials before.
    """

    def __init__(self, spaces: Sequence[Space], objectives: Sequence[str], seed: int) -> None:
        self.spaces, self.objectives, self.seed = spaces, objectives, seed
        self.optuna = load_optuna()
        self.distributions = {space.name: self._make_distribution(space) for space in spaces}

    def _make_distribution(self, space: Space) -> Any:
        distributions = self.optuna.distributions
        if space.kind == "one-of":
            return distributions.CategoricalDistribution(space.choices)
        if space.kind == "int":
            return distributions.IntDistribution(int(space.low), int(space.high))
        return distributions.FloatDistribution(space.low, space.high, log=space.kind == "log")

    def choose_values(self, trials: Sequence[Trial], at_random: bool = False) -> dict[str, Value]:
        """The values of the next trial."""
        samplers, seed = self.optuna.samplers, _make_seed(self.seed, len(trials))
        sampler = samplers.RandomSampler(seed=seed)
        if not at_random:
            sampler = samplers.TPESampler(
                seed=seed, n_startup_trials=FIRST_AT_RANDOM, multivariate=len(self.spaces) > 1
            )
        return dict(self._remember(trials, sampler).ask(self.distributions).params)

    def is_hopeless(self, trials: Sequence[Trial], number: int) -> bool:
        """Is a running trial below the median of the others at its epoch?"""
        others = [trial for place, trial in enumerate(trials) if place != number]
        study = self._remember(others, self.optuna.samplers.RandomSampler(seed=0))
        study.enqueue_trial(trials[number].values)
        trial = study.ask(self.distributions)
        for epoch, value in enumerate(trials[number].epochs, start=1):
            trial.report(value, epoch)
        return bool(trial.should_prune())

    def find_best(self, trials: Sequence[Trial]) -> list[int]:
        """The numbers of the trials that none surpasses in all objectives, the most robust first.

        With one objective it is the best, of equals the one with the better other accuracy.
        """
        finished = [place for place, trial in enumerate(trials) if trial.state == "finished"]
        if not finished:
            return []
        if len(self.objectives) == 1:
            other = "clean" if self.objectives[0] == "robust" else "robust"
            names = (self.objectives[0], other)
            return [max(finished, key=lambda n: tuple(getattr(trials[n], name) for name in names))]
        study = self._remember(trials, None)
        front = [int(trial.number) for trial in study.best_trials]
        return sorted(front, key=lambda number: (-(trials[number].robust or 0), number))

    def measure_importance(self, trials: Sequence[Trial]) -> dict[str, float]:
        """The share of each option in the spread of the first objective; empty where unknown."""
        finished = [trial for trial in trials if trial.state == "finished"]
        values = {getattr(trial, self.objectives[0]) for trial in finished}
        if len(finished) < ENOUGH or len(values) < 2 or len(self.spaces) < 2:
            return {}
        study = self._remember(finished, None)
        evaluator = self.optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = self.optuna.importance.get_param_importances(
            study,
            evaluator=evaluator,
            target=lambda trial: trial.values[0],
        )
        return {name: float(share) for name, share in found.items()}

    def _remember(self, trials: Sequence[Trial], sampler: Any) -> Any:
        """A study in memory that knows these trials."""
        pruner = self.optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED, n_warmup_steps=2)
        study = self.optuna.create_study(
            directions=["maximize"] * len(self.objectives), sampler=sampler, pruner=pruner
        )
        states = self.optuna.trial.TrialState
        names = {"finished": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}
        for trial in trials:
            state = names.get(trial.state, states.RUNNING)
            study.add_trial(
                self.optuna.trial.create_trial(
                    state=state,
                    params=trial.values,
                    distributions=self.distributions,
                    values=self._list_values(trial) if state is states.COMPLETE else None,
                    intermediate_values=dict(enumerate(trial.epochs, start=1)),
                )
            )
        return study

    def _list_values(self, trial: Trial) -> list[float]:
        return [float(getattr(trial, name)) for name in self.objectives]


def _make_seed(seed: int, number: int) -> int:
    """A seed of 32 bits for the draws of one trial."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "little")


def describe_accuracies(trial: Trial) -> str:
    """``robust 71.20 %, clean 90.00 %``."""
    return f"robust {format_percent(trial.robust)}, clean {format_percent(trial.clean)}"


def describe_values(values: Mapping[str, Value]) -> str:
    """``optim.lr 0.0213, batch-size 64``."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
