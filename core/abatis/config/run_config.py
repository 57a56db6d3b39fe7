"""The configuration of a run: its options, checked together, with those of its plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator

from abatis.api.threat import Threat, refuse_twice
from abatis.config import discovery
from abatis.config.old_names import OLD_NAMES, rename_old
from abatis.config.option_facts import find_options
from abatis.config.plugin_options import take_plugin_options
from abatis.config.pydantic_messages import as_usage_error
from abatis.config.run_options import AVERAGING_DECAY, RunOptions
from abatis.errors import UsageError, did_you_mean

ROLES = ("attacker", "loss", "weights")


class RunConfig(RunOptions):
    """One experiment.

    The options of a plugin are given under its name, ``RunConfig(plugin=["x"], x={"weight": 1})``,
    or as ``options={"x": {"weight": 1}}``.

    Raises:
        UsageError: where an option is wrong; it names the option.
        PluginError: where a plugin cannot be loaded.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _raise_usage_error(
        cls, raw: Any, validate: ModelWrapValidatorHandler[RunConfig]
    ) -> RunConfig:
        """Whatever is wrong is a UsageError that names the option."""
        try:
            return validate(raw)
        except ValidationError as error:
            raise as_usage_error(error, cls) from error

    @model_validator(mode="before")
    @classmethod
    def _take_plugin_options(cls, raw: Any) -> Any:
        """Validate the tables of the selected plugins against their own classes."""
        if isinstance(raw, Mapping):
            raw = rename_old(raw)
        taken = take_plugin_options(raw, cls.model_fields, reserved_names())
        if isinstance(taken, dict) and isinstance(taken.get("ema"), bool):
            taken["ema"] = AVERAGING_DECAY if taken["ema"] else 0.0
        return taken

    @model_validator(mode="after")
    def _check_roles(self) -> RunConfig:
        for role in self.use:
            if role not in ROLES:
                raise UsageError(
                    f"--use {role}=...: unknown role '{role}', {did_you_mean(role, ROLES)}"
                )
        return self

    @model_validator(mode="after")
    def _check_attack(self) -> RunConfig:
        self.attack.check_step(self.threat_model)
        self.statistics.check_attack(self.attack)
        return self

    @model_validator(mode="after")
    def _check_validation(self) -> RunConfig:
        held_out = self.validation
        if held_out is not None and held_out > 1 and held_out % 1:
            raise UsageError(
                f"--validation {held_out:g}: neither a number of images nor a share below 1",
                fix="give a number like 1000, a share like 0.02, or 0",
            )
        if held_out == 0 and self.early_stop:
            raise UsageError(
                "--early-stop needs held-out images, and --validation 0 holds out none",
                fix="leave one of them out",
            )
        return self

    @model_validator(mode="after")
    def _check_balance(self) -> RunConfig:
        if self.order == "balanced" and self.class_weights == "balanced":
            raise UsageError(
                "--order balanced and --class-weights balanced both make up for unequal classes",
                fix="leave one of them out",
            )
        return self

    @model_validator(mode="after")
    def _check_threats(self) -> RunConfig:
        if self.also_threat and self.ladder in ("none", "clean"):
            raise UsageError(
                f"--also-threat has no effect with --ladder {self.ladder}, which runs no attack",
                fix="leave one of them out",
            )
        refuse_twice(self.judged_threats, "--threat, --also-train and --also-threat")
        return self

    @property
    def judged_threats(self) -> tuple[Threat, ...]:
        """The threats of the evaluation: the trained ones, then the others."""
        return (*self.trained_threats, *map(Threat.parse, self.also_threat))

    @model_validator(mode="after")
    def _check_averaging(self) -> RunConfig:
        if self.ema_warmup and not self.ema:
            raise UsageError(
                f"--ema-warmup {self.ema_warmup:g} has no effect without --ema",
                fix="add --ema, or leave it out",
            )
        return self

    @property
    def trained_threats(self) -> tuple[Threat, ...]:
        """The threats of the training attack; a plugin may know several."""
        return (self.threat_model, *map(Threat.parse, self.also_train))

    @property
    def resumes(self) -> bool:
        """May the run folder exist already?"""
        return self.resume or self.restart

    @property
    def threat_model(self) -> Threat:
        """The threat, parsed."""
        return Threat.parse(self.threat)

    @property
    def own_options(self) -> dict[str, str]:
        """The options of our own networks, such as ``{"activation": "silu"}``; usual ones left out.

        Each is an option ``--backbone-NAME``.
        """
        usual = {"init": "he"}
        given = {
            name: getattr(self, f"backbone_{name}") for name in ("init", "activation", "padding")
        }
        return {name: value for name, value in given.items() if value != usual.get(name)}

    def to_toml(self) -> dict[str, Any]:
        """The content of ``run.toml``, which repeats the run; each plugin's options are a table."""
        beside = set(find_options(RunConfig, lambda facts: not facts.recorded))
        dumped = self.model_dump(mode="json", exclude=beside, exclude_none=True)
        return {
            **dumped,
            **{
                name: options.model_dump(mode="json", exclude_none=True)
                for name, options in self.options.items()
            },
        }


def reserved_names() -> frozenset[str]:
    """Names that no plugin may have: those of the core options, with hyphens."""
    return frozenset(
        {discovery.normalise_name(field) for field in RunConfig.model_fields}
        | {"config", "recipe", "help", *OLD_NAMES}
    )
