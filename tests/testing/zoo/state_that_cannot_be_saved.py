"""A state that a checkpoint cannot hold."""

from __future__ import annotations

from abatis import Run, TrainerHooks, hookimpl

FAILS = "test_goes_on_from_its_state"
WORDS = "state_dict returns what a checkpoint cannot hold"


class Stateful(TrainerHooks):
    def state_dict(self) -> dict[str, object]:
        return {"self": self}


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    return Stateful()
