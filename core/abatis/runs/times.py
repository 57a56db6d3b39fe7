"""Notes on times of the training that plugins' options name, and that a run does not reach."""

from __future__ import annotations

from abatis.api.options import PluginConfig, list_numbers
from abatis.config.run_config import RunConfig


def warn_about_times(config: RunConfig, steps_per_epoch: int | None) -> list[str]:
    """Notes on options that count epochs, or are shares of the training.

    Args:
        config: the options of the run.
        steps_per_epoch: None where the images were not opened.
    """
    notes = []
    for name, options in config.options.items():
        notes += _warn_late_epochs(name, options, config.epochs)
        if options.idle_epochs >= config.epochs:
            hint = "".join(
                f"; {_write(name, shares)} takes a share of the training"
                for option, shares in options.shares.items()
                if getattr(options, option) == options.idle_epochs
            )
            notes.append(
                f"{name} begins after epoch {options.idle_epochs}; "
                f"it will have no effect in a run of {config.epochs} epochs{hint}"
            )
        for option, shares in options.shares.items():
            if getattr(options, shares) is None:
                continue
            notes += _warn_replaced(name, options, option)
            if steps_per_epoch is not None:
                notes += _warn_late_shares(name, options, shares, config.epochs * steps_per_epoch)
    return notes


def _warn_late_epochs(name: str, options: PluginConfig, epochs: int) -> list[str]:
    """A note for each option with epochs that the run does not reach."""
    notes = []
    for option, numbers in options.dated_epochs.items():
        late = [str(number) for number in numbers if number > epochs]
        if late:
            hint = ""
            if option in options.shares:
                hint = f"; {_write(name, options.shares[option])} takes shares of the training"
            notes.append(
                f"{_write(name, option)}: a run of {epochs} epochs ends before epoch "
                f"{' and '.join(late)}{hint}"
            )
    return notes


def _warn_replaced(name: str, options: PluginConfig, option: str) -> list[str]:
    """A note where an option that counts epochs was given, and shares count."""
    epochs = getattr(options, option)
    if epochs == type(options).model_fields[option].default:
        return []
    given = ",".join(map(str, list_numbers(epochs)))
    shares = _write(name, options.shares[option])
    return [f"{_write(name, option)} {given} has no effect with {shares}"]


def _warn_late_shares(name: str, options: PluginConfig, option: str, steps: int) -> list[str]:
    """A note where a share of the training lies behind the start of the last step."""
    last = (steps - 1) / steps
    late = [f"{share:g}" for share in list_numbers(getattr(options, option)) if share > last]
    if not late:
        return []
    return [
        f"{_write(name, option)} {','.join(late)}: the last of {steps} steps begins at {last:g}"
    ]


def _write(name: str, option: str) -> str:
    """An option as it is written on the command line."""
    return f"--{name}.{option.replace('_', '-')}"
