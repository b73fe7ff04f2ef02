"""Plugins: objects with ``install(durably)``, given to ``durably.use``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .durably import Durably, Plugin


class _LogPersistence:
    def install(self, durably: Durably, /) -> None:
        durably.persist_logs()


def with_log_persistence() -> Plugin:
    """Keep what jobs log: ``durably.use(with_log_persistence())``, then ``get_logs(run_id)``."""
    return _LogPersistence()
