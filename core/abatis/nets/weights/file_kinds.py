"""What a file is, by its first bytes: suffixes decide nothing."""

from __future__ import annotations

import zipfile
from pathlib import Path

from abatis.errors import UsageError

SAFETENSORS, PICKLE = "safetensors", "pickle"
SCRIPT, PROGRAM = "TorchScript program", "torch.export program"
PROGRAM_SUFFIX = ".pt2"
TEXT = 64  # bytes that tell whether a file is a text
PICKLED = b"\x80"  # the first byte of a pickle
START = 32  # bytes in which old files of torch.save have a mark
HEADER = 512  # bytes that tell one kind from another
POINTER = b"version https://git-lfs"
TAR = slice(257, 262)  # where "ustar" stands
MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
"""Stands at the start of the pickles that torch.save wrote before it wrote zip files."""
OTHERS = {
    b"\x1f\x8b": "is compressed by gzip",
    b"BZh": "is compressed by bzip2",
    b"\xfd7zXZ": "is compressed by xz",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd",
    b"7z\xbc\xaf": "is a 7z archive",
    b"Rar!": "is a RAR archive",
    b"\x89HDF": "is HDF5, as Keras writes it",
    b"\x93NUMPY": "is an array of numpy",
    b"\x89PNG": "is a PNG image",
    b"\xff\xd8\xff": "is a JPEG image",
    b"GGUF": "is GGUF, a format of quantised weights",
    b"%PDF": "is a PDF document",
}
"""First bytes of what is not weights."""


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
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= length <= size - 8:
        return SAFETENSORS
    _refuse_accidents(path, head)
    if head[:2] == b"PK":
        return _find_archive_kind(path)
    if MAGIC in head[:START]:
        return PICKLE
    if path.suffix == ".safetensors":
        return SAFETENSORS
    what = "was written by pickle" if head[:1] == PICKLED else "is damaged or of another kind"
    raise UsageError(
        f"cannot read weights: the file {what}; torch.save or safetensors did not write it",
        where=str(path),
        fix="copy or download it again; or load it where it was written, and torch.save its "
        "state_dict",
    )


def _refuse_accidents(path: Path, head: bytes) -> None:
    """Raise UsageError for what was saved instead of weights."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    what = ""
    if not head:
        what, fix = "is empty", "download it again"
    elif text.startswith(b"<"):
        what = "is a web page (HTML), not weights"
        fix = "download the file itself: a login, quota or preview page was saved in its place"
    elif text.startswith(POINTER):
        what = "is a Git LFS pointer, not the weights themselves"
        fix = "run: git lfs pull"
    elif head[TAR] == b"ustar":
        what, fix = "is a tar archive of files", "unpack it and name the weights file inside"
    elif found := next((name for start, name in OTHERS.items() if head.startswith(start)), ""):
        packed = "compressed" in found or "archive" in found
        what, fix = found, "unpack it" if packed else "give what torch.save or safetensors wrote"
    elif not text.strip(b"\0"):
        what, fix = "is blank", "download it again"
    elif line := _read_text(text):
        what, fix = f"is a text, not weights: {line}", "download it again"
    if what:
        raise UsageError(f"cannot read weights: the file {what}", where=str(path), fix=fix)


def _read_text(head: bytes) -> str:
    """The start of a text; empty where the bytes are none."""
    try:
        found = head[:TEXT].decode()
    except UnicodeDecodeError:
        return ""
    line = " ".join(found.split())
    return f"'{line:.60}'" if line.isprintable() else ""


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
