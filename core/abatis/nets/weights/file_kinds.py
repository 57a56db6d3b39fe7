"""What a file is, by its first bytes: suffixes decide nothing."""

from __future__ import annotations

import zipfile
from pathlib import Path

from abatis.errors import UsageError

SAFETENSORS, PICKLE = "safetensors", "pickle"
SCRIPT, PROGRAM = "TorchScript program", "torch.export program"
PROGRAM_SUFFIX = ".pt2"
HEADER = 512  # bytes that tell one kind from another
POINTER = b"version https://git-lfs"
TAR = slice(257, 262)  # where "ustar" stands
PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")


def find_kind(path: Path) -> str:
    """The kind of a weights file or program. Nothing in it is run.

    Raises:
        UsageError: there is no such file, or it is none of them.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEADER)
            size = path.stat().st_size
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror or type(error).__name__}", fix="check the path"
        ) from error
    _refuse_accidents(path, head)
    if head[:2] == b"PK":
        return _find_archive_kind(path)
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= length <= size - 8:
        return SAFETENSORS
    return SAFETENSORS if path.suffix == ".safetensors" else PICKLE


def _refuse_accidents(path: Path, head: bytes) -> None:
    """Raise UsageError for what was saved instead of weights."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    what = ""
    if not head:
        what, fix = "is empty", "download it again"
    elif text.lower().startswith(PAGES):
        what = "is a web page (HTML), not weights"
        fix = "download the file itself: a login, quota or preview page was saved in its place"
    elif text.startswith(POINTER):
        what = "is a Git LFS pointer, not the weights themselves"
        fix = "run: git lfs pull"
    elif head[TAR] == b"ustar":
        what, fix = "is a tar archive of files", "unpack it and name the weights file inside"
    elif head[:2] == b"\x1f\x8b":
        what, fix = "is compressed by gzip", "unpack it with gunzip first"
    if what:
        raise UsageError(f"cannot read weights: the file {what}", where=str(path), fix=fix)


def _find_archive_kind(path: Path) -> str:
    """The kind of a zip file: torch writes weights and programs into such."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UsageError(
            "cannot read weights: the file is cut off or damaged",
            where=str(path),
            fix="copy or download it again",
        ) from error
    inner = {name.partition("/")[2] for name in names} | set(names)
    if "constants.pkl" in inner:
        return SCRIPT
    if "archive_format" in inner or "serialized_exported_program.json" in inner:
        return PROGRAM
    if "data.pkl" in inner:
        return PICKLE
    raise UsageError(
        "cannot read weights: the file is a zip archive that torch did not write",
        where=str(path),
        fix="unpack it and name the weights file inside",
    )
