"""An archive of an OUTPUT_ROOT has these contents: the names of its parts, how each manifest was submitted, and sums of
files."""

from __future__ import annotations

import hashlib
import shlex
from typing import IO

from pydantic import BaseModel

ABOUT, SUMS, LEDGER = "archive.json", "SHA256SUMS", "ledger.db"
ENVIRONMENTS, MANIFESTS = "environments.json", "manifests"
PARTS = ("runs", "submissions", "studies", "stages", "choices", "notifications")  # of an OUTPUT_ROOT


class ArchiveInfo(BaseModel):
    """archive.json."""

    created: str
    smoke: bool
    manifests: dict[str, list[str]]  # file -> the options that it was submitted with

    def commands(self, folder: str) -> list[str]:
        """Return the commands that do what is missing, once the archive is unpacked to `folder`."""
        place, smoke = (f"{folder}/smoke", ["--smoke"]) if self.smoke else (folder, [])
        return [
            shlex.join(["submit", f"{place}/{MANIFESTS}/{file}", *smoke, *options, "--output-root", folder])
            for file, options in self.manifests.items()
        ]


class Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        return data

    def digest(self) -> str:
        return self._hash.hexdigest()
