"""Databases whose encoding is not UTF8: what has no place in it cannot even be queried."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from ...telemetry.logs import logger

_ANYTHING = frozenset({"UTF8", "SQL_ASCII"})  # the latter keeps bytes as they come


class Encoding:
    """The encoding of a database, by the server's name for it."""

    def __init__(self, name: str = "UTF8") -> None:
        self._name = name
        self._refused = frozenset[str]()

    def warn(self) -> None:
        """Say what it means, once."""
        if self._name != "UTF8":
            logger.warning(
                "the database has encoding %s: names, keys and scopes with characters that it lacks are "
                "refused; create databases with encoding 'UTF8'",
                self._name,
            )

    def storable(self, jobs: Sequence[str]) -> Sequence[str]:
        """The jobs whose names fit into it. No run of the others can be there."""
        if self._name in _ANYTHING:
            return jobs
        fitting = [job for job in jobs if self._fits(job)]
        refused = frozenset(jobs) - frozenset(fitting)
        if refused - self._refused:
            self._refused = refused
            names = ", ".join(sorted(map(repr, refused)))
            logger.warning("jobs that the encoding %s has no letters for: %s", self._name, names)
        return fitting

    def _fits(self, text: str) -> bool:
        try:
            text.encode(self._codec())
        except UnicodeEncodeError:
            return False
        return True

    def _codec(self) -> str:
        name = self._name.lower().replace("win", "cp")
        try:
            return codecs.lookup(name).name
        except LookupError:
            return "ascii"
