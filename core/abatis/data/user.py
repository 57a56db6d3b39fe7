"""Data given from Python: arrays, or torch Datasets."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from abatis.api.randomness import seeded
from abatis.data.arrays import Arrays, ArraySplit, check_alike, check_label, parse_labels
from abatis.data.in_memory import open_arrays
from abatis.data.info import Data, DataInfo, Split, resolve_augment, show_some
from abatis.data.order import apply_limit, choose_stratified, hold_out
from abatis.data.pixel_range import Rounding, check_range
from abatis.data.request import DataRequest
from abatis.data.statistics import Statistics, measure_statistics
from abatis.data.stream import StreamSplit
from abatis.errors import DataError, UsageError
from abatis.system.user_module import raised_at

NAME = "user"
FORM = "pass (train, test), each a pair (x, y) of arrays or a torch Dataset of (image, label)"
JUDGED = "pass a pair (x, y) of arrays, or a torch Dataset of (image, label)"
TRIED = 16  # test samples of a Dataset that are looked at before a run
STATISTICS_OF = 1000  # samples of a Dataset that mean and std are taken from


def from_user(given: object, request: DataRequest) -> Data:
    """The splits of ``(train, test)``, each a pair (x, y) of arrays or tensors, or a torch Dataset.

    All images are square. A Dataset is not augmented here.

    Args:
        given: x is uint8 (N, H, W, C), (N, C, H, W) or (N, H, W), or float (N, C, H, W) in [0, 1];
            y is (N,) integers. A Dataset yields (float image (C, H, W) in [0, 1], int label).
        request: how to open them.

    Raises:
        DataError: the images or labels are of another form.
        UsageError: an option does not apply to such data.
    """
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise UsageError(f"data is a {type(given).__name__}, not a pair", fix=FORM)
    request.check(streamed=False)
    pairs = [isinstance(part, tuple | list) and len(part) == 2 for part in given]
    if all(pairs):
        return _open_arrays(given[0], given[1], request)
    if any(pairs):
        raise UsageError("data mixes a pair of arrays and a Dataset", fix=FORM)
    if request.extra is not None:
        raise UsageError(
            "--extra.file needs data that are arrays, and these are Datasets", fix="leave it out"
        )
    if request.augment not in ("auto", "none") or request.crop_padding != "zeros":
        raise UsageError(
            f"augmentation {request.augment!r} with crop padding {request.crop_padding!r}:"
            " a Dataset augments its own images",
            fix="leave --augment and --crop-padding out",
        )
    return _open_datasets(given[0], given[1], request)


def open_judged(given: object, device: torch.device) -> tuple[DataInfo, Split]:
    """Images to judge a network on: a pair (x, y) of arrays or tensors, or a torch Dataset.

    Args:
        given: as one part of what :func:`from_user` takes.
        device: where batches are put.

    Returns:
        Their facts, with as many classes as the largest label says, and the images.

    Raises:
        DataError: the images or labels are of another form.
        UsageError: it is neither a pair nor a Dataset.
    """
    rounding = Rounding()
    if isinstance(given, tuple | list) and len(given) == 2:
        x = _images(given[0], "x", rounding)
        y = parse_labels(given[1], len(x), "y", "data")
        split: Split = ArraySplit(x.to(device), y, "none")
        shape: tuple[int, ...] = tuple(x.shape[1:])
    else:
        _check_dataset(given, "data", JUDGED)
        dataset: Any = given
        with seeded(0, "describe"):  # a Dataset may draw from the global generators
            shape, y = _measure_shape(dataset, "data"), _labels(dataset, "data")
        images = _DatasetImages(dataset, "data", y, shape, torch.arange(len(y)))
        split = StreamSplit(images, device, 0, rounding=rounding)
    unknown = (0.0,) * shape[0]  # mean and std: nothing is normalised by them
    classes = int(y.max()) + 1
    info = DataInfo(
        NAME, classes, shape[0], shape[1], unknown, unknown, "none", rounding.take_note()
    )
    return info, split


def _open_arrays(train: Any, test: Any, request: DataRequest) -> Data:
    rounding = Rounding()
    x_train = _images(train[0], "x of train", rounding)
    x_test = _images(test[0], "x of test", rounding)
    check_alike(x_train, x_test, "data")
    y_train = parse_labels(train[1], len(x_train), "y of train", "data")
    y_test = parse_labels(test[1], len(x_test), "y of test", "data")
    arrays = Arrays(x_train, y_train, x_test, y_test)
    channels, size = x_train.shape[1:3]
    augment = resolve_augment(request.augment, "crop-flip" if channels == 3 else "none")
    mean, std = measure_statistics(x_train)
    note = rounding.take_note()
    info = DataInfo(NAME, arrays.num_classes, channels, size, mean, std, augment, note)
    return open_arrays(arrays, info, request)


def _images(values: Any, name: str, rounding: Rounding) -> Tensor:
    """Images as (N, C, H, W), uint8 or float32 in [0, 1]."""
    found = values.detach() if isinstance(values, Tensor) else np.asarray(values)
    x = _native(_put_channels_first(found))
    if x.dim() != 4 or x.shape[2] != x.shape[3]:
        raise DataError(
            f"{name} is {str(found.dtype).removeprefix('torch.')} of shape {tuple(found.shape)}",
            where="data",
            fix="give square images (resize, crop or pad them; nothing is done unasked): uint8 "
            "(N, H, W, C) or (N, C, H, W), or float (N, C, H, W) in [0, 1]",
        )
    if x.is_floating_point():
        check_range(x, name, _find_precision(found))
        x = rounding.clamp(x)
    return x.contiguous()


def _find_precision(found: Any) -> float:
    """The machine epsilon of floats, an array or a tensor."""
    known = torch.finfo if isinstance(found, Tensor) else np.finfo
    return float(known(found.dtype).eps)


def _native(found: Any) -> Tensor:
    """uint8 as it is, floats as float32, and (0,) for other types.

    Arrays are copied, once: they may be read-only.
    """
    if isinstance(found, Tensor):
        x = found
    elif found.dtype == np.uint8 or found.dtype.kind == "f":
        dtype = np.uint8 if found.dtype == np.uint8 else np.float32
        x = torch.from_numpy(np.array(found, dtype, order="C"))
    else:
        return torch.empty(0)
    return x if x.dtype == torch.uint8 else x.float() if x.is_floating_point() else torch.empty(0)


def _put_channels_first(found: Any) -> Any:
    """uint8 (N, H, W) and (N, H, W, C) as (N, C, H, W); the two equal sides are H and W.

    A view of the array or tensor.
    """
    if found.dtype not in (torch.uint8, np.uint8):
        return found
    if found.ndim == 3:
        return found[:, None]
    if found.ndim == 4 and found.shape[1] == found.shape[2]:
        axes = (0, 3, 1, 2)
        return found.permute(axes) if isinstance(found, Tensor) else found.transpose(axes)
    return found


def _open_datasets(train: Any, test: Any, request: DataRequest) -> Data:
    for part, name in ((train, "train"), (test, "test")):
        _check_dataset(part, name, FORM)
    with seeded(0, "describe"):  # a Dataset may draw from the global generators
        shape = _measure_shape(train, "train")
        y_train, y_test = _labels(train, "train"), _labels(test, "test")
        mean, std = _measure(train, choose_stratified(y_train, STATISTICS_OF))
        for place in choose_stratified(y_test, TRIED).tolist():  # before hours of training
            _sample(test, place, "test")
    some, tested = apply_limit(request.limit, y_train, y_test)
    num_classes = int(torch.maximum(y_train.max(), y_test.max())) + 1
    names = _find_class_names(train, test, num_classes)
    info = DataInfo(NAME, num_classes, shape[0], shape[1], mean, std, "none", class_names=names)
    training = _DatasetImages(train, "train", y_train, shape, some)
    testing = _DatasetImages(test, "test", y_test, shape, torch.arange(len(y_test)))
    # it may be a Dataset that cannot be sent to other processes: they are used where asked for
    device, workers, rounding = request.device, request.workers or 0, Rounding()
    return Data(
        info,
        *hold_out(StreamSplit(training, device, workers, rounding=rounding), request.validation),
        StreamSplit(testing, device, workers, tested, rounding),
        take_note=rounding.take_note,
    )


def _check_dataset(part: Any, name: str, form: str) -> None:
    """Raise an error where something is not a Dataset with images."""
    if isinstance(part, IterableDataset) or not (
        hasattr(part, "__getitem__") and hasattr(part, "__len__")
    ):
        raise UsageError(f"{name} is a {type(part).__name__}, which cannot be indexed", fix=form)
    if len(part) == 0:
        raise DataError("the Dataset is empty", where=name, fix="give at least one image")


def _find_class_names(train: Any, test: Any, num_classes: int) -> tuple[str, ...]:
    """The names of the classes where both Datasets have ``.classes``; else none.

    Raises:
        DataError: both have names and number them differently, as ImageFolders of other folders do.
    """
    named = [getattr(part, "classes", None) for part in (train, test)]
    known = [
        [str(name) for name in names]
        for names in named
        if isinstance(names, list | tuple) and names
    ]
    if len(known) < 2:
        return ()
    if known[0] != known[1]:
        raise DataError(
            "the two Datasets number classes differently: "
            f".classes is {show_some(known[0])} in train, {show_some(known[1])} in test",
            where="data",
            fix="number both by the same list of classes",
        )
    return tuple(known[0]) if len(known[0]) == num_classes else ()


class _DatasetImages:
    """Reads the images of a Dataset and checks each: its shape, its range, its label.

    Args:
        dataset: the Dataset.
        name: "train" or "test".
        labels: (N,) int64, of all its images.
        shape: (C, H, W) of an image.
        chosen: (n,) int64, which of the N images are used.
    """

    def __init__(
        self, dataset: Any, name: str, labels: Tensor, shape: tuple[int, ...], chosen: Tensor
    ) -> None:
        self.dataset, self.name, self.shape = dataset, name, shape
        self.places, self.labels = chosen.tolist(), labels[chosen]

    def image(self, index: int, train: bool) -> Tensor:
        """(C, H, W) float32 in [0, 1], up to rounding."""
        place = self.places[index]
        image, label = _sample(self.dataset, place, self.name)
        if tuple(image.shape) != self.shape:
            raise DataError(
                f"an image of shape {tuple(image.shape)}; the first one is {self.shape}",
                where=f"{self.name}, sample {place}",
                fix="resize all images to one size",
            )
        if label != int(self.labels[index]):
            raise DataError(
                f"the label is {label} now and was {int(self.labels[index])} before",
                where=f"{self.name}, sample {place}",
                fix="yield the same label each time, the one in .targets if the Dataset has them",
            )
        return image


def _sample(dataset: Any, index: int, name: str) -> tuple[Tensor, int]:
    """One checked sample of a Dataset: (C, H, W) float32 in [0, 1] and a label >= 0."""
    where = f"{name}, sample {index}"
    try:
        sample = dataset[index]
    except Exception as error:  # it is somebody else's code
        raise DataError(
            f"the Dataset fails on {where}: {type(error).__name__}: {error}", where=raised_at(error)
        ) from error
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        raise DataError(
            f"the Dataset yields {type(sample).__name__}, not (image, label)", where=where, fix=FORM
        )
    image, label = sample
    if not isinstance(image, Tensor) or not image.is_floating_point() or image.dim() != 3:
        kind = (
            f"{image.dtype} of shape {tuple(image.shape)}"
            if isinstance(image, Tensor)
            else type(image).__name__
        )
        raise DataError(
            f"the image is {kind}", where=where, fix="yield a float tensor (C, H, W) in [0, 1]"
        )
    check_range(image, where, _find_precision(image))
    try:
        number = operator.index(label)
    except TypeError:
        number = -1
    if number < 0:
        raise DataError(
            f"the label is {label!r}", where=where, fix="yield labels that are integers >= 0"
        )
    check_label(number, "the Dataset", where)
    return image.float(), number


def _labels(dataset: Any, name: str) -> Tensor:
    """(n,) int64 labels of all images, from ``.targets`` or by one pass over them."""
    targets = getattr(dataset, "targets", None)
    if targets is not None and len(targets) == len(dataset):
        return parse_labels(targets, len(dataset), ".targets", name)
    return torch.tensor([_sample(dataset, index, name)[1] for index in range(len(dataset))])


def _measure_shape(dataset: Any, name: str) -> tuple[int, ...]:
    """Shape (C, H, W) of the first image."""
    shape = tuple(_sample(dataset, 0, name)[0].shape)
    if shape[1] != shape[2]:
        raise DataError(f"images are {shape[1]}x{shape[2]}", where=name, fix="make them square")
    return shape


def _measure(dataset: Any, chosen: Tensor) -> Statistics:
    """The statistics of the images at some positions, (n,) int64."""
    sums: Tensor | float = 0.0  # (2, C) float64, of the values and of their squares
    for index in chosen.tolist():
        flat = _sample(dataset, index, "train")[0].double().flatten(1)  # (C, H*W)
        sums = sums + torch.stack([flat.mean(1), flat.square().mean(1)])
    mean, square = torch.as_tensor(sums) / len(chosen)
    std = (square - mean**2).clamp_(min=0).sqrt()
    return tuple(mean.tolist()), tuple(value or 1.0 for value in std.tolist())
