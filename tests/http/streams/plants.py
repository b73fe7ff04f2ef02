"""Bugs to plant in a server: a harness that lets one of them pass would prove nothing."""

from __future__ import annotations

import inspect
import sys
import textwrap
from typing import Any

from durably.http import operations, sse

PLANTS: dict[str, tuple[Any, str, str, str]] = {
    "a stream does not release its source": (
        sse.Stream,
        "aclose",
        "self._pump.cancel()\n    await asyncio.wait({self._pump})",
        "pass",
    ),
    "who comes back is told one event less": (
        operations, "_last_seen", "return int(header)", "return int(header) + 1",
    ),
    "who comes back is told one event twice": (
        operations, "_last_seen", "return int(header)", "return max(0, int(header) - 1)",
    ),
    "the throttle drops the last progress": (
        sse.Stream, "_take", "await self._flush(event.run_id)", "self._late.pop(event.run_id, None)",
    ),
}  # fmt: skip


def plant(name: str) -> None:
    """Plant a bug by its name; '' is none."""
    if not name:
        return
    owner, function, old, new = PLANTS[name]
    original = getattr(owner, function)
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(old) == 1, source
    planted: dict[str, Any] = {}
    module = sys.modules[original.__module__].__dict__
    code = f"from __future__ import annotations\n{source.replace(old, new)}"
    exec(code, module, planted)
    setattr(owner, function, planted[function])
