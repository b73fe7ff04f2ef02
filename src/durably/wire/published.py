"""The dialects of the wire: the current protocol, and that of the published client 0.15.

Nothing else knows how the published client differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RESYNC = "runs:resync"
"""The event that tells a list to fetch itself again, as after a lost connection."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the wire names things; the defaults are those of the protocol."""

    statuses: Mapping[str, str]
    """Our status to the wire's, where they differ."""
    events: Mapping[str, str]
    """Our event to the wire's, where they differ."""
    levels: Mapping[str, str]
    """Our log level to the wire's, where they differ."""
    resync: str = RESYNC
    """The event that tells a list to fetch itself again."""
    reads_first: bool = False
    """Whether its clients read a list while its stream is being opened, and so must read it again."""
    settles: float = float("inf")
    """Seconds of silence after which its lists are read again: in this client, a response that was
    requested before an event and arrives after it undoes the event."""
    exact: bool = False
    """Whether only the fields that the published client knows are sent, and unknown ones accepted."""


CURRENT = Dialect({}, {}, {"warning": "warn"})
PUBLISHED = Dialect(
    {"running": "leased", "waiting": "leased"},
    # It knows neither of the two event types that are replaced. At their replacements it reads its list
    # again, which is right.
    {"run:start": "run:leased", "run:retry": "run:trigger"},
    {"warning": "warn", "debug": "info"},
    resync="step:cancel",
    reads_first=True,
    settles=1.0,
    exact=True,
)
DIALECTS: Mapping[str | None, Dialect] = {None: CURRENT, "0.15": PUBLISHED}
