"""Which of several sets of weights is taken: the one that was asked for, or the authors' own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from abatis.errors import UsageError
from abatis.nets.weights.contents import WHOLE, Contents, Tensors
from abatis.nets.weights.leftovers import show_names
from abatis.nets.weights.matching import Fit, Target, match_set

AVERAGE = re.compile(r"(^|[._])(ema|swa|averaged?|avg|polyak|shadow)([._]|$)", re.I)
RAW = re.compile(r"(^|[._])(unaveraged|non_?ema|raw)([._]|$)", re.I)
OPTION = "--weights-key (in Python weights_key=)"

Accepts = Callable[[Fit], bool]


class WeightsMismatch(UsageError):
    """Weights do not fit the network.

    Attributes:
        outputs: the number of outputs in the file, where only that differs; else None.
    """

    outputs: int | None = None


@dataclass(frozen=True)
class Choice:
    """The weights to load.

    Attributes:
        label: the name of the set.
        tensors: of the set, with all that is not for this network.
        fit: how the set fits the network.
        others: the names of other sets that would fit too.
        left: names of tensors of the set that belong to no set that fits.
        unfit: the names of sets that do not fit.
    """

    label: str
    tensors: Tensors
    fit: Fit
    others: tuple[str, ...]
    left: tuple[str, ...]
    unfit: tuple[str, ...]


def choose_weights(
    target: Target, contents: Contents, key: str | None, name: str, accepts: Accepts
) -> Choice:
    """Choose the set of weights to load.

    Where several fit and differ, the average of the weights is taken, which its authors evaluate.

    Args:
        target: what the network wants.
        contents: of the file.
        key: the name of the set that was asked for, or a word of it; None for the usual one.
        name: of the network, for messages.
        accepts: does a set fit well enough?

    Raises:
        UsageError: none fits, or several do and none is the usual one.
    """
    matches = {label: match_set(target, tensors) for label, tensors in contents.sets.items()}
    fitting = _list_fitting(matches, accepts)
    if key is not None:
        found = _find_asked(key, fitting)
        if found is None and (wanted := _find_asked(key, matches)) is not None:
            raise explain_mismatch(target, contents, wanted, matches[wanted], name)
        if found is None:
            raise UsageError(
                f"{contents.path} has no weights '{key}'",
                where=f"it has {', '.join(fitting or matches)}",
                fix="choose one of these",
            )
    elif not fitting:
        best = max(matches, key=lambda one: len(matches[one][0].taken) if matches[one] else -1)
        raise explain_mismatch(target, contents, best, matches[best], name)
    else:
        found = _find_usual(list(fitting), contents)
    origin, fit = fitting[found]
    tensors = contents.sets[origin]
    known = {one for other in matches[origin] if accepts(other) for one in other.used}
    left = tuple(one for one in tensors if one not in known)
    unfit = tuple(name for name, fits in matches.items() if not any(map(accepts, fits)))
    if key is None and not any(is_average(label) for label in fitting):
        tables = [one for one in left if tensors[one].dim()]  # single numbers are counters
        _refuse_lost_average(contents, found, [*contents.lists, *unfit, *tables])
    others = tuple(other for other in fitting if other != found)
    return Choice(found, tensors, fit, others, left, unfit)


def _refuse_lost_average(contents: Contents, found: str, unused: Sequence[str]) -> None:
    """Raise UsageError where something that is not used is an average of the weights."""
    if averages := [name for name in unused if is_average(name)]:
        raise UsageError(
            f"{contents.path} holds an average of the weights ({show_names(averages)}), which its "
            f"authors evaluate and which does not fit; only the weights '{found}' do",
            fix=f"to take those: --weights-key {found}; else write the average as a state_dict",
        )


def _list_fitting(matches: Mapping[str, list[Fit]], accepts: Accepts) -> dict[str, tuple[str, Fit]]:
    """The sets that fit, each of other values than those before it, by label.

    A table of tensors may hold several networks, under prefixes that differ. With each label come
    the name of the table and how the set fits.
    """
    found: dict[str, tuple[str, Fit]] = {}
    for name, fits in matches.items():
        good = sorted(filter(accepts, fits), key=lambda fit: (-len(fit.used), len(fit.prefix)))
        distinct: list[Fit] = []
        for fit in good:
            if any(fit.used <= other.used for other in distinct):
                continue  # the same tensors without the normalisation before them
            if not any(fit.equals(other) for other in distinct):
                distinct.append(fit)
        for fit in distinct:
            parts = (*(() if name == WHOLE else (name,)), *filter(None, (fit.prefix.strip("."),)))
            label = ".".join(parts) or WHOLE if len(distinct) > 1 else name
            if not any(fit.equals(other) for _, other in found.values()):
                found[label] = name, fit
    return found


def _find_asked(key: str, names: Iterable[str]) -> str | None:
    """The name that is asked for: the whole name, else the only one that has this word."""
    if key in names:
        return key
    words = [name for name in names if key in re.split(r"[._]", name)]
    return words[0] if len(words) == 1 else None


def _find_usual(names: list[str], contents: Contents) -> str:
    """The only set, else the average of the weights; raises UsageError where there is no such."""
    if len(names) == 1:
        return names[0]
    averages = [name for name in names if is_average(name)]
    if not averages and any(RAW.search(name) for name in names):
        averages = [name for name in names if not RAW.search(name)]
    if len(averages) != 1:
        raise UsageError(
            f"{contents.path} holds {len(names)} sets of weights that fit: {', '.join(names)}",
            fix=f"choose one with {OPTION}",
        )
    return averages[0]


def is_average(name: str) -> bool:
    """Does a set hold averages of the weights, by its name?"""
    return bool(AVERAGE.search(name)) and not RAW.search(name)


def explain_mismatch(
    target: Target, contents: Contents, chosen: str, fits: list[Fit], name: str
) -> WeightsMismatch:
    """The error for weights that do not fit, which counts what differs and shows the first."""
    fix = "give the --backbone that the weights were trained with"
    if not fits:
        of_file, own = next(iter(contents.sets[chosen])), next(iter(target.tensors), "no tensors")
        return WeightsMismatch(
            f"{contents.path} does not fit {name}: no tensor has a name of the network",
            where=f"the file has {of_file}, the network {own}",
            fix=fix,
        )
    fit = fits[0]
    if outputs := find_outputs(target, fit):
        error = WeightsMismatch(
            f"{contents.path} has {outputs} outputs and {name} "
            f"{len(target.tensors[next(iter(fit.reshaped))])}: heads of different sizes",
            fix="use the data set it was trained on, or --label-map; --init takes a new head",
        )
        error.outputs = outputs
        return error
    parts = []
    if fit.missing:
        parts.append(
            f"{len(fit.missing)} of {len(target.tensors)} tensors are missing "
            f"({show_names(fit.missing)})"
        )
    if fit.reshaped:
        first, shape = next(iter(fit.reshaped.items()))
        parts.append(
            f"{len(fit.reshaped)} have other shapes ({first}: {shape} in the file, "
            f"{tuple(target.tensors[first].shape)} in the network)"
        )
    if left := [one for one in contents.sets[chosen] if one not in fit.used]:
        parts.append(f"{len(left)} of the file are not expected ({show_names(left)})")
    set_name = "" if chosen == WHOLE else f" ({chosen})"
    return WeightsMismatch(
        f"{contents.path}{set_name} does not fit {name}: {'; '.join(parts)}", fix=fix
    )


def find_outputs(target: Target, fit: Fit) -> int | None:
    """The number of outputs of a file, where it is all in which its tensors differ."""
    if fit.missing or not fit.reshaped or not target.head.issuperset(fit.reshaped):
        return None
    sizes = {shape[0] for shape in fit.reshaped.values() if shape}
    alike = all(
        shape[1:] == tuple(target.tensors[name].shape[1:]) for name, shape in fit.reshaped.items()
    )
    return sizes.pop() if len(sizes) == 1 and alike else None
