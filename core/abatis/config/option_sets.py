"""The sets of options that need special treatment, derived from the facts of each option."""

from __future__ import annotations

from abatis.config.option_facts import find_options
from abatis.config.run_config import RunConfig

OF_THIS_MACHINE = find_options(RunConfig, lambda facts: facts.this_machine)
"""Options that are left out where a run's options are published."""
FREE_ON_RESUME = find_options(RunConfig, lambda facts: facts.recorded and facts.on_resume == "free")
"""Options that may differ from the checkpoint: they change nothing that a step computes."""
ROUNDED_ON_RESUME = find_options(RunConfig, lambda facts: facts.on_resume == "rounded")
"""Options that may differ from the checkpoint, but the run is then not bit-exact."""
LONGER_ON_RESUME = find_options(RunConfig, lambda facts: facts.on_resume == "longer")
"""Options that may be larger than in the checkpoint."""
FREE_IN_COMPARISON = find_options(
    RunConfig, lambda facts: facts.recorded and facts.in_comparison == "free"
)
"""Options in which runs may differ and still be the same method, trained within the same budget."""
VARIED_IN_COMPARISON = find_options(RunConfig, lambda facts: facts.in_comparison == "varied")
"""Options in which the runs of a comparison are meant to differ."""
MEASURES = find_options(RunConfig, lambda facts: facts.measures)
"""Options, and groups of them, that change what the accuracy on held-out images means."""
RESULTLESS = find_options(RunConfig, lambda facts: facts.in_comparison == "free")
"""Options that change nothing about the trained network, but for rounding."""
