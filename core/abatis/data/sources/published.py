"""Files as the authors of a data set publish them, opened only after their sha256 was checked."""

from __future__ import annotations

import hashlib
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from abatis.errors import DataError
from abatis.system.files import write_bytes

TIMEOUT = 10.0  # seconds without a response after which a download has failed


@dataclass(frozen=True)
class PublishedFile:
    """A published file: where it lies below the data folder, and where it comes from."""

    path: str
    sha256: str
    url: str

    def read(self, data_dir: Path) -> bytes:
        """Its bytes, downloaded where it is missing.

        Raises DataError where the sha256 is not the published one.
        """
        path = data_dir / self.path
        if path.is_file():
            found = path.read_bytes()
        else:
            with urllib.request.urlopen(self.url, timeout=TIMEOUT) as answer:
                found = answer.read()
        digest = hashlib.sha256(found).hexdigest()
        if digest != self.sha256:
            raise DataError(
                f"not the published {path.name}: its sha256 is {digest}, not {self.sha256}",
                where=str(path) if path.is_file() else self.url,
                fix="delete the file and download it again",
            )
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, found)
        return found
