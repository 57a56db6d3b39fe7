"""Which published splits of a data set are trained on and judged; they are never mixed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from abatis.data.classes import follow_network, match_labels
from abatis.data.info import DataInfo, join_notes, show_some
from abatis.data.order import choose_stratified
from abatis.data.pictures import Pictures, describe_pictures
from abatis.data.request import DataRequest
from abatis.errors import DataError

TRAINING = ("train", "training", "trainval")
TESTING = ("test", "testing", "validation", "valid", "val", "dev")
JOINED = {"trainval": ("train", "val", "validation", "valid")}  # a split, and what it contains
FORM = "name them as :TEST or :TRAIN,TEST behind the data, like :validation or :train+val,test"


@dataclass(frozen=True)
class Chosen:
    """The splits of a run.

    Attributes:
        train: what is trained on; empty where a network is only judged and there is nothing.
        test: what is judged; empty where a share of ``train`` is.
        note: what a reader of results must know about the choice.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Part:
    """One or several splits, read.

    Attributes:
        pictures: the images; labels count ``classes``.
        classes: the names of the classes; empty where the data have none.
    """

    pictures: Pictures
    classes: Sequence[str] = ()


def cut_splits(place: str) -> tuple[str, str]:
    """``NAME:SPLITS`` as name and splits; the splits are empty where they are not given."""
    found = re.fullmatch(r"(.+):([\w.+,-]+)", place)
    return (found[1], found[2]) if found else (place, "")


def choose_splits(
    asked: str, there: Sequence[str], request: DataRequest, unlabelled: Sequence[str] = ()
) -> Chosen:
    """The splits to train on and to judge.

    Args:
        asked: "", "TEST" or "TRAIN,TEST", where each can be several joined by "+".
        there: the splits of the data.
        request: what the data are opened for.
        unlabelled: splits without labels, which are not chosen unasked.

    Raises:
        DataError: there are no such splits, the two overlap, or nothing says which is which.
    """
    share = request.source.test_share
    usual = [name for name in (*TESTING, *there) if name in there and name not in unlabelled]
    left, comma, right = asked.rpartition(",")
    if share is not None:
        return _choose_to_divide(asked, there, request)
    test = tuple(right.split("+")) if right else tuple(n for n in usual if n in TESTING)[:1]
    free = [name for name in TRAINING if name in there and not _overlap((name,), test)]
    train = tuple(left.split("+")) if comma else tuple(free[:1])
    _check_known((*train, *test), there, request)
    if not test:
        raise DataError(
            f"no test set: the splits are {show_some(there)}",
            where=request.spec,
            fix=f"{FORM}; or take a share of the images: --source.test-share 0.2",
        )
    if both := _overlap(train, test):
        raise DataError(
            f"training and test set would share {', '.join(both)}", where=request.spec, fix=FORM
        )
    if not train and request.trains:
        raise DataError(
            f"no training set beside {'+'.join(test)}: the splits are {show_some(there)}",
            where=request.spec,
            fix=FORM,
        )
    unread = [name for name in there if not _overlap((name,), (*train, *test))]
    note = f"the test set is the split {'+'.join(test)}"
    note += f", the training set {'+'.join(train)}" if train else ""
    return Chosen(train, test, note + (f"; not read: {show_some(unread)}" if unread else ""))


def _choose_to_divide(asked: str, there: Sequence[str], request: DataRequest) -> Chosen:
    """The one split that is divided into training and test set."""
    others = [name for name in there if name in TESTING]
    named = tuple(asked.split("+")) if asked else tuple(there) if len(there) == 1 else ()
    if not named or "," in asked:
        hint = f"there is a test set, {others[0]}" if others else "there are several splits"
        raise DataError(
            f"--source.test-share divides one split, and {hint}: {show_some(there)}",
            where=request.spec,
            fix="leave it out, or name the split to divide behind the data, like :train",
        )
    _check_known(named, there, request)
    return Chosen(named, (), "")


def _check_known(names: Sequence[str], there: Sequence[str], request: DataRequest) -> None:
    strange = [name for name in names if name not in there]
    if strange:
        raise DataError(
            f"there is no split {strange[0]!r}; the splits are {show_some(there)}",
            where=request.spec,
            fix=FORM,
        )


def _overlap(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """The splits of ``one`` that ``other`` has too, as they are or inside another."""

    def spread(names: Sequence[str]) -> set[str]:
        return {part for name in names for part in (name, *JOINED.get(name, ()))}

    return [name for name in one if spread([name]) & spread(other)]


def read_splits(
    chosen: Chosen, read: Callable[[tuple[str, ...]], Part], request: DataRequest, note: str = ""
) -> tuple[DataInfo, Pictures, Pictures]:
    """The facts and the images of both splits, with labels matched by the names of classes.

    Args:
        chosen: the splits.
        read: reads some of them as one.
        request: how to open them.
        note: what else a reader of results must know.

    Raises:
        DataError: a split is empty, an image has no label, or the classes do not fit.
    """
    first = read(chosen.train or chosen.test)
    _check(first, request)
    if chosen.train and chosen.test:
        second = read(chosen.test)
        _check(second, request)
        train, test = first.pictures, second.pictures
    elif chosen.test:
        second = first
        test = first.pictures
        train = test.subset(torch.arange(0))
    else:
        second = first
        train, test, divided = _divide(first.pictures, request)
        note = join_notes(note, divided)
    if bool(first.classes) != bool(second.classes):
        raise DataError(
            "only one of training and test set has names of classes", where=request.spec
        )
    classes, matched = follow_network(list(first.classes), request.class_names)
    if first.classes:
        where = request.spec
        train = _with_labels(train, first.classes, classes, where)
        test = _with_labels(test, second.classes, classes, where)
    note = join_notes(chosen.note, note, matched)
    info = describe_pictures(request, train if len(train) else test, classes, note)
    if not classes:
        labels = torch.cat([train.labels, test.labels])
        info = replace(info, num_classes=int(labels.max()) + 1)
        if int(labels.min()) == 1:
            doubt = "no image has label 0: do labels count from 1? Output 0 is label 0 here"
            info = replace(info, note=join_notes(info.note, doubt))
    return info, train, test


def _with_labels(
    pictures: Pictures, named: Sequence[str], classes: Sequence[str], where: str
) -> Pictures:
    return replace(pictures, labels=match_labels(pictures.labels, named, classes, where))


def _check(part: Part, request: DataRequest) -> None:
    labels = part.pictures.labels
    if not len(labels):
        raise DataError("a split has no images", where=request.spec, fix=FORM)
    without = int((labels < 0).sum())
    if without:
        raise DataError(
            f"{without} of {len(labels)} images have no label, as in a test set whose labels are"
            " not published",
            where=request.spec,
            fix=f"choose another split; {FORM}",
        )
    if part.classes and int(labels.max()) >= len(part.classes):
        raise DataError(
            f"there is a label {int(labels.max())}, and names for {len(part.classes)} classes",
            where=request.spec,
            fix="count labels from 0",
        )


def _divide(pictures: Pictures, request: DataRequest) -> tuple[Pictures, Pictures, str]:
    """A split as training and test set, and a note; the same in every run."""
    share = request.source.test_share or 0.0
    count = min(max(1, round(share * len(pictures))), len(pictures) - 1)
    chosen = choose_stratified(pictures.labels, count)
    rest = torch.ones(len(pictures), dtype=torch.bool)
    rest[chosen] = False
    note = (
        f"the data come without a test set: {count} of {len(pictures)} images, of all classes,"
        " are kept for it"
    )
    return pictures.subset(rest.nonzero().squeeze(1)), pictures.subset(chosen), note
