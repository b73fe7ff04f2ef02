"""What processes under attack write down, for the oracle."""

from __future__ import annotations

import os
from pathlib import Path


class Effects:
    """The writing side of the effects file: lines that survive whatever happens to the writer."""

    def __init__(self, path: str | Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)

    def write(self, kind: str, *words: object) -> None:
        line = " ".join([kind, str(os.getpid()), *map(str, words)])
        os.write(self._descriptor, line.encode() + b"\n")
