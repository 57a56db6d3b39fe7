"""The sets of weights that a file or folder holds, by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from abatis.errors import UsageError
from abatis.nets.weights.file_kinds import PICKLE, SAFETENSORS, find_kind
from abatis.nets.weights.inert_pickle import Inert, name_origin, read_pickle
from abatis.nets.weights.leftovers import show_names
from abatis.nets.weights_file import WEIGHTS, WEIGHTS_AVERAGED, read_weights

Tensors = Mapping[str, Tensor]

WHOLE = "file"  # names a set that is the file itself
WRAPPED = re.compile(
    r"(?<=\.)(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod|_forward_module)\."
)
"""What wrappers of torch add inside of names; before all names it is a prefix like any other."""
DEPTH = 3  # tables inside tables in which sets are looked for
OTHER_STATES = re.compile(r"(opt|optim\w*|\w*optimizer\w*|\w*sched\w*|\w*scaler|amp)", re.I)
"""Entries of a training's state whose tensors are not those of a network."""

IN_FOLDER = (
    WEIGHTS_AVERAGED,
    WEIGHTS,
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
)
"""The weights files of a folder, the first one counts: ours, those of the Hub and of accelerate."""
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Contents:
    """What a file or folder of weights holds.

    Attributes:
        path: of the file or folder.
        sets: tensors by name, for each set of weights by its name.
        facts: what this package wrote about them, if it did.
        others: what else is there and was not read, in words.
        lists: the names of entries that hold tensors without names.
    """

    path: Path
    sets: Mapping[str, Tensors]
    facts: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()


def read_contents(path: Path, allow_pickle: bool = False) -> Contents:
    """Read all sets of weights of a file or folder. Nothing in it is run.

    Args:
        path: a file that torch.save or safetensors wrote, or a folder with one, or with parts.
        allow_pickle: may it be a pickle? Only its tensors are loaded.

    Raises:
        UsageError: it holds no weights, cannot be read, or is a pickle and none are allowed.
    """
    if path.is_dir():
        return _read_folder(path, allow_pickle)
    if refuse_pickle(path, allow_pickle) == SAFETENSORS:
        tensors, facts = read_weights(path)
        return Contents(path, {WHOLE: unwrap_names(tensors)}, facts)
    return _read_pickled(path)


def refuse_pickle(path: Path, allow_pickle: bool) -> str:
    """The kind of a weights file: safetensors, or a pickle where pickles are allowed.

    Raises:
        UsageError: it is a pickle and none are allowed, or no weights file.
    """
    kind = find_kind(path)
    if kind not in (SAFETENSORS, PICKLE):
        raise UsageError(
            f"{path} is a {kind}, not weights",
            fix="judge it as it is: leave --backbone out; or save model.state_dict()",
        )
    if kind == PICKLE and not allow_pickle:
        raise UsageError(
            f"{path} is a pickle, which can contain a program",
            fix="add --allow-pickle (in Python allow_pickle=True), which loads tensors and runs "
            "no code; or give .safetensors",
        )
    return kind


def _read_pickled(path: Path) -> Contents:
    content, left_out = read_pickle(path)
    sets = dict(_find_sets(content, ""))
    if not sets:
        raise UsageError(
            f"cannot read weights: {_describe_content(content)}",
            where=str(path),
            fix="where the network's code is: torch.save(model.state_dict(), 'weights.pt')",
        )
    others = [
        str(key)
        for key in (content if WHOLE not in sets else ())
        if not any(name == key or name.startswith(f"{key}.") for name in sets)
    ]
    return Contents(path, sets, others=(*others, *left_out), lists=(*_find_lists(content, ""),))


def _find_lists(value: object, name: str) -> Iterator[str]:
    """The dotted names of lists of tensors in a table, as averages of weights are often kept."""
    if isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
        yield name
    if not isinstance(value, dict) or name.count(".") >= DEPTH:
        return
    for key, part in value.items():
        if not OTHER_STATES.fullmatch(str(key)):
            yield from _find_lists(part, f"{name}.{key}" if name else str(key))


def _find_sets(value: object, name: str) -> Iterator[tuple[str, Tensors]]:
    """The tables of tensors in a table, by their dotted names."""
    if not isinstance(value, dict) or name.count(".") >= DEPTH:
        return
    inner: list[tuple[str, Tensors]] = []
    for key, part in value.items():
        if isinstance(key, str) and not OTHER_STATES.fullmatch(key):
            inner += _find_sets(part, f"{name}.{key}" if name else key)
    tensors = {
        key: part.detach()
        for key, part in value.items()
        if isinstance(key, str) and isinstance(part, Tensor)
    }
    if inner:
        yield from inner
    elif 2 * len(tensors) >= len(value) and any(part.dim() for part in tensors.values()):
        yield name or WHOLE, unwrap_names(tensors)


def unwrap_names(tensors: Tensors) -> Tensors:
    """The tensors without what wrapped modules inside of the network add to their names."""
    found = {WRAPPED.sub("", name): value for name, value in tensors.items()}
    return found if len(found) == len(tensors) else tensors


def _describe_content(content: object) -> str:
    """What a file holds that has no weights."""
    if origin := name_origin(content):
        return f"the file holds a pickled {origin}, which is code, not weights"
    if not isinstance(content, dict):
        kind = type(content).__name__
        return f"the file holds {'an' if kind[0] in 'aeiou' else 'a'} {kind}, not weights"
    if "param_groups" in content and "state" in content:
        return "the file holds the state of an optimizer, not weights"
    modules = [f"{key} ({part.origin})" for key, part in content.items() if isinstance(part, Inert)]
    if modules:
        return f"the file holds pickled objects, not weights: {', '.join(modules[:3])}"
    keys = ", ".join(str(key) for key in list(content)[:5]) or "nothing"
    return f"the file holds no table of tensors; it holds {keys}"


def _read_folder(folder: Path, allow_pickle: bool) -> Contents:
    """The weights of a folder: in one file, or in parts that an index lists."""
    for name in INDICES:
        if (folder / name).is_file():
            return _read_parts(folder, name, allow_pickle)
    for name in IN_FOLDER:
        if (folder / name).is_file():
            found = read_contents(folder / name, allow_pickle)
            return Contents(folder, found.sets, found.facts, found.others, found.lists)
    if (folder / ".metadata").is_file():
        raise UsageError(
            f"{folder} is a checkpoint of torch.distributed, in shards",
            fix=f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} w.pt",
        )
    files = sorted(path.name for path in folder.iterdir() if path.suffix in SUFFIXES)
    raise UsageError(
        f"no weights in {folder} under a usual name",
        fix=f"name one of its files: {show_names(files)}"
        if files
        else f"name a weights file, or a folder that holds one of {', '.join(IN_FOLDER[1:4])}",
    )


def _read_parts(folder: Path, index: str, allow_pickle: bool) -> Contents:
    """Join the parts that an index lists; each tensor from the part that the index names."""
    try:
        places = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
        places = {WRAPPED.sub("", str(name)): folder / str(part) for name, part in places.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"cannot read weights: the index is damaged ({type(error).__name__})",
            where=str(folder / index),
            fix="download the folder again",
        ) from error
    if any(part.parent != folder for part in places.values()):
        raise UsageError(
            "cannot read weights: the index names files outside of its folder",
            where=str(folder / index),
            fix="download the folder again",
        )
    parts: dict[Path, Tensors] = {}
    others: tuple[str, ...] = ()
    for part in sorted({*places.values()}):
        found = read_contents(part, allow_pickle)
        parts[part] = found.sets.get(WHOLE, {})
        others += found.others
    lost = [name for name, part in places.items() if name not in parts[part]]
    if lost:
        raise UsageError(
            f"cannot read weights: {len(lost)} tensors that the index lists are missing, "
            f"such as {lost[0]}",
            where=str(folder / index),
            fix="download the folder again",
        )
    return Contents(folder, {WHOLE: {n: parts[p][n] for n, p in places.items()}}, others=others)
